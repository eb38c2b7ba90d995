"""Edits in several turns: scripts with a known picture after every turn, and what drifts.

`scripts` walks through the pairs of the test split, `chains` has the editors, `measures` says how
far off a picture is, `result` adds it up: curves, half-lives, differences.
"""
