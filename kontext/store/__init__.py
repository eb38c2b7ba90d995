"""Objects, artifacts and the catalog."""

CHANGES_RESULTS = False  # moves bytes; those that decide bytes say so themselves
