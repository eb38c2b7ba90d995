"""Optimisers: AdamW, AdamW with small moments, and Muon, with rates by parameter group."""
