"""Training from a pack, on a machine that has nothing else."""
