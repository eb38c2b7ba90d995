"""The DuckLake below the catalog: connections, extensions from wheels, metadata, migrations.

Nothing is downloaded. Tables are created and changed in `migrations` only.
"""
