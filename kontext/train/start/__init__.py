"""The weights that training starts from: files, artifacts, adapters beside them, and their digest.

`init` in a recipe names them; the digest of files on disk is part of the stage's digest.
"""
