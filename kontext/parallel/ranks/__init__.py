"""Processes that work together: what a rank is asked to do, its launch, its watchdog.

Work is a plain function of `Inputs`; a world of one needs no launch. None of it changes a result.
"""
