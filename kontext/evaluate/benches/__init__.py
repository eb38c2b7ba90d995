"""Benches: sets of edits with what is needed to judge them.

A bench gives contexts, instructions, targets and change masks as arrays. A new one is one file.
"""
