"""Safety: the hash gate, classifiers, rules on text and on pairs, policy, ledger, canaries.

Everything fails closed. Imports the store and `errors` only. To add a classifier, write one file in
`classifiers/` with its risks and its `load`, and name it in a policy of `policies/`.
"""
