"""Model folders: what publish writes and the editor loads, and the layouts of other tools.

`imports` reads BFL's and diffusers' files, `exports` writes them, `folder` is our own layout.
"""
