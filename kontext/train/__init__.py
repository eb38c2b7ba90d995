"""Training: one loop, one file per method, the optimisers.

Imports with torch, numpy, safetensors and pydantic alone. A world of one rank is the ordinary case.
loop/ knows nothing of a method; methods/ know nothing of how ranks are launched. plan/ rehearses
a method's step without numbers, to count its memory; `capacity` says from that what fits.
"""
