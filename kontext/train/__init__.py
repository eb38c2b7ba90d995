"""Timesteps, steps and loops. Torch only."""
