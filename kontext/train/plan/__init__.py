"""Plans: a training's own step rehearsed on tensors that hold no numbers, and its memory counted.

Imports with torch, numpy, safetensors and pydantic alone.
"""
