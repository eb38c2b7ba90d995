"""The one training loop: steps, checkpoints, exact resume, the guard on losses, cost.

A method (`kontext.train.methods`) hands it parameters, optimisers and a `step`.
"""
