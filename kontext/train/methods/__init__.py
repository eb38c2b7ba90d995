"""Training methods, one file each: the class, `build(config, inputs, world)`, and its cost.

A stage calls a file's `build` and hands what it returns to `kontext.train.loop.training.train`. To
add a method, write such a file and give it a recipe section.
"""
