"""The one training loop: steps, checkpoints, exact resume, the guard on losses, cost.

Ranks are launched by `kontext.parallel.ranks`.

A method hands it parameters, optimisers and a `step`; see `kontext.train.methods` for those.
"""
