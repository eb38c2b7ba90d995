"""Exchanges of hashes of known harmful material, one file each, named by the file.

A new one is one new file here: `Settings` (what its file in `HOME/exchanges` says), `ENVIRONMENT`
(the variable with its credentials; empty where it needs none) and `deltas(settings, credentials,
since)`, which gives what has changed since an earlier fetch. It runs in a process of its own that
is ended where no answer comes (`kontext.safety.fetch`). May import kontext.errors, schemas, and in
functions the client that it needs.
"""

CHANGES_RESULTS = False  # lists count by what they hold, not by where they come from
