"""The networks, exactly FLUX.1's, at any size. Torch only."""
