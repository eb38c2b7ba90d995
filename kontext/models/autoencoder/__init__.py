"""FLUX.1's image autoencoder (f8, 16 channels), and how images too large for memory pass it.

Parameter names are BFL's. `tiling` gives the same result as one piece, up to rounding.
"""
