"""The networks, exactly FLUX.1's at any size, and their files.

Import with torch, numpy, safetensors and pydantic alone. May import `parallel` and `errors`.
flux/ is the transformer, autoencoder/ the codec, text/ and features/ the frozen networks, qlora/
frozen layers in 8 or 4 bits beside adapters, files/ the layouts on disk.
"""
