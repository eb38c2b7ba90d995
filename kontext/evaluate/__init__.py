"""How good edits are: benches, metrics, reference editors, statistics, and the report.

Imports the editor that users run, so a defect of the user's path shows in the scores.
"""
