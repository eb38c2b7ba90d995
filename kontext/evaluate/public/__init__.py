"""A public bench run by any editor: edits, measures, judges, and the table of it.

Nothing of the data is copied into a run but small pictures in its page.
"""
