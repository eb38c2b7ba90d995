"""What few-step students are made with: input and turns, heads and formulas, gates on the wiring.

The methods, who is updated when and by which loss, are `kontext.train.methods.ladd` and `.dmd2`.
"""
