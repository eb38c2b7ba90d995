"""Weights on disk: reading and writing, BFL's and diffusers' layouts, LoRA files, recognising them.

Conversion is bit-exact in both directions. Pickled files are refused. Imports other models only.
"""
