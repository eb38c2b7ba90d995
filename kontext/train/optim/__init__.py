"""Optimisers: AdamW, AdamW with small moments, and Muon for hidden matrices.

`build` chooses by name and gives parameter groups their own rates.
"""
