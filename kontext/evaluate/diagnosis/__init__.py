"""Why a model scores as it does: does it use the context, which stage loses what, do relations hold
that need no target, and what of the test is in training.

May import kontext.evaluate's benches, pixels, statistics, paired, wordings and false editors.
"""
