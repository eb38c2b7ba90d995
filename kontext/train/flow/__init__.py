"""What methods that train a flow share: timesteps, velocity, batches of edits, validation."""
