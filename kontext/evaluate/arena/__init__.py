"""The arena: blind votes between the edits of an evaluation, and ratings of the editors.

`contest` has the pictures, `asking` decides what is asked next and takes votes, `pairing` which two
editors, `gold` who is counted, `ratings` what the votes say. The page is flows.arena.
"""

CHANGES_RESULTS = False  # people vote on what stages have made; no stage asks
