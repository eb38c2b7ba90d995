"""Processes that work together: what a rank is asked to do, its launch, its watchdog.

torchrun or Ray starts them; a world of one needs no launch. Work is a plain function of `Inputs`.
None of it changes a result.
"""
