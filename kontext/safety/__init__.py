"""Safety: the hash gate, classifiers, rules on text and on pairs, policy, ledger, canaries.

Everything fails closed. Imports the store and `errors` only. A classifier is one file in
`classifiers/` with its risks, and a line in a policy of `policies/`.
"""
