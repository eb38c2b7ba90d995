"""The one training loop: steps, checkpoints, exact resume, guards, cost, ranks and their launch.

A method hands it parameters, optimisers and a `step`; see `kontext.train.methods` for those.
"""
