"""How reconstructed images are compared: the perceptual network, and metrics with their cards.

Used by the autoencoder and by the last steps of the flow, which compare decoded images.
"""
