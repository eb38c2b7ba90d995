"""What LADD is made of: its formulas, its heads, and the gates that its wiring must pass first.

The method itself, who is updated when, is `kontext.train.methods.ladd`.
"""
