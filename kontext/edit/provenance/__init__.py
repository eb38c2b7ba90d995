"""Where an edit comes from, written into the file: metadata, C2PA credentials, certificates.

Imports nothing from the editor. Without the extra `[c2pa]` only the metadata is written.
"""
