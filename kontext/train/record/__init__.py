"""What a training run leaves for people and later stages: numerics, speed, TensorBoard, outputs.

The numerics ledger is compared before weights are used; the rest is shown, and changes no result.
"""
