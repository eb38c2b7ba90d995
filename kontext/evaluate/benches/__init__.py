"""Benches: sets of edits with what is needed to judge them.

The held-out bench of a recipe's data (`held_out`) gives contexts, instructions, targets and change
masks as arrays. Public benches are read from folders (`public`): a new one is one file here with
`BENCH`, what was published about it, and `load`.
"""
