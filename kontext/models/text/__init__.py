"""Frozen text encoders behind one protocol, their tokenizers, and embeddings kept on disk.

A new encoder is one class with the `TextEncoder` protocol and one entry in `load_text_encoder`.
"""
