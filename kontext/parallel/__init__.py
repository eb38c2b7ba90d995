"""The only folder that knows of devices and ranks: FSDP2, Ulysses, kernels, sharded checkpoints.

Imports torch, `store` and `errors`. Models are written for one device and are sharded from here.
"""
