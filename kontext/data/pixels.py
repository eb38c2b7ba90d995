"""Canonical pixels: RGB8 as every stage sees it, the id of it, and the PNG it is kept as."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kontext.errors import ArtifactError

Pixels = NDArray[np.uint8]  # [H, W, 3]


def pixel_id(rgb: Pixels) -> str:
    """SHA-256 of the canonical pixels with their shape: the key of an image."""
    height, width = rgb.shape[:2]
    digest = hashlib.sha256(f"rgb8:{width}x{height}:".encode())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()


def encode_png(rgb: Pixels) -> bytes:
    """Lossless PNG; the same pixels give the same bytes under the same zlib."""
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "PNG", compress_level=6)
    return out.getvalue()


def decode_png(png: bytes) -> Pixels:
    """Pixels [H, W, 3] of a PNG that `encode_png` wrote. Threads run it side by side.

    Raises:
        ArtifactError: not such a PNG, or a damaged one.
    """
    # torchvision holds the interpreter's lock for a third of the time that Pillow does
    import torch
    from torchvision.io import ImageReadMode
    from torchvision.io import decode_png as decode

    try:
        data = torch.frombuffer(bytearray(png), dtype=torch.uint8)
        rgb: Pixels = decode(data, ImageReadMode.RGB).permute(1, 2, 0).numpy()
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"an image of {len(png)} bytes is no PNG of ours: {error}") from error
    return rgb
