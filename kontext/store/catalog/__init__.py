"""The SQL catalog: a DuckLake (DuckDB over Parquet) with one snapshot for each dataset version.

Only the committer writes, in one transaction. Tables are created in `migrations` alone; views are
the .sql files of `schemas/views`. Imports `store.objects`, `store.artifacts` and `schemas`.
"""
