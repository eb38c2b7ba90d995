"""Where everything is kept: objects (files by name), artifacts (stage outputs), the SQL catalog.

Imports `errors` and `schemas` only. Nothing in it knows what a stage computes. Parquet files are
written in one place, `parquet`, because their bytes are part of every artifact.
"""

CHANGES_RESULTS = False  # moves bytes; those that decide bytes say so themselves
