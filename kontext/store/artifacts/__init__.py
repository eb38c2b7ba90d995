"""Artifacts: versioned stage outputs, their lineage, what differs between two, copies elsewhere.

Blobs are kept by content; a manifest is written last, so an artifact is there or it is not.
Imports `store.objects` and `schemas.manifest`.
"""
