"""FLUX.1's transformer: sequences, attention heads, blocks, and the model itself.

Parameter names are BFL's. Numbers are held to BFL's and diffusers' by parity tests.
"""
