"""From image sources to training rows: sources, mining, captions, quality, shards, encoded rows.

`decode` is the only place where bytes become pixels. Imports models, safety, engine and store.
Every sub-folder whose files are plug-ins says in its own docstring how to add one.
"""
