"""How reconstructed images are compared: the perceptual network, and metrics with their cards."""
