"""What methods that train a flow share: timesteps, velocity and loss, batches of edits, validation.

`timesteps` is the one timestep function: training, validation and sampling all draw from it.
"""
