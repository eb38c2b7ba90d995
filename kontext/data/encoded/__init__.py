"""Encoded rows: latents and text embeddings in safetensors shards, and the tensors training reads.

Rows are keyed by content and by the digest of the encoder. They stay on disk; training maps them.
"""
