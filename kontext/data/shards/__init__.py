"""WebDataset shards: deterministic writing, an index, reading, streaming with exact resume.

The same pairs give the same bytes on any machine. Imports the store, never a training method.
"""
