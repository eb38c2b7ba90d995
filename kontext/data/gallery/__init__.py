"""A page of pairs: whatever a query names, with pictures, texts, scores and verdict.

May import kontext.store, kontext.data.images and schemas.
"""
