"""The DuckLake below the catalog: connections, extensions, metadata, migrations, what SQL may do.

Nothing is downloaded. Tables are created and changed in `migrations` only.
"""
