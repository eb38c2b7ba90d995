"""Sweeping: what newer hash lists, or people who opted out, take from everything that was kept.

`find` looks, `rewrite` makes artifacts without it, `sweep` does all of it and commits new versions
of datasets, `purge` deletes what still holds it. May import what kontext.data may.
"""
