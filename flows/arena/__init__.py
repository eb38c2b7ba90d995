"""The page on which people vote: `kontext arena` serves it.

What is asked is decided by kontext.evaluate.arena. May import flows.server, kontext and schemas.
"""
