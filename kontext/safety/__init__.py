"""Hash gate, classifiers, text and pair rules, policy, ledger, canaries."""
