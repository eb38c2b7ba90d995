"""The one editor: sampling, canvases and sizes, sessions, detail, provenance, model folders.

`kontext edit`, the bench, the previews of training and the teacher's edits all go through it.
Imports train's timesteps and models. Safety checks and file decoding are the caller's.
"""
