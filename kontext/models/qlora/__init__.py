"""Frozen weights in 8 or 4 bits, with adapters beside them that train (QLoRA)."""
