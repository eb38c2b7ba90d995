"""Quality of pairs: pixel measures, a small CLIP, and the screening that turns scores into reasons.

Scores are raw numbers. Thresholds are SQL views, not code here. Imports models and safety.
"""
