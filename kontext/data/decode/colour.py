"""ICC profiles and CMYK to sRGB, with libvips and littlecms, alpha apart.

What a profile computes decides, never its name: where it maps a grid of colours to themselves the
pixels are sRGB already and stay as they are.
"""

from functools import lru_cache
from typing import Any

import numpy as np

_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")
_SPACES = {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}
_GRID = 9  # steps of each channel
_SAME = 1  # of 255
_SRGB = "srgb"  # libvips' own profile
_INTENT = "perceptual"


def to_srgb(image: Any, profile: bytes | None) -> tuple[Any, str]:
    """Bands of colour (uchar or ushort, 1, 3 or 4 of them) to sRGB, uchar, 3 bands.

    Returns:
        (image, what became of the profile: none, srgb, applied or unusable).
    """
    bands = image.bands
    verdict, needed = ("none", bands) if profile is None else _judge(profile, bands)
    if verdict == "applied":
        assert profile is not None
        if needed == 3 and bands == 1:
            image = image.bandjoin([image, image])
        return _transform(image, profile), verdict
    if bands == 4:
        return _plain_cmyk(image), verdict
    if image.format == "ushort":
        image = (image / 257).rint().cast("uchar")
    if bands == 1:
        image = image.bandjoin([image, image])
    return image.copy(interpretation="srgb"), verdict


def lab_to_srgb(image: Any) -> Any:
    """CIE L*a*b* (D50) to sRGB, uchar."""
    lab = image.cast("float").copy(interpretation="lab")
    return lab.icc_export(output_profile=_SRGB, pcs="lab", intent=_INTENT, depth=8)


@lru_cache(maxsize=64)
def _judge(profile: bytes, bands: int) -> tuple[str, int]:
    """(srgb, applied or unusable; number of bands the profile is of)."""
    import pyvips

    space = _SPACES.get(profile[16:20], 0) if profile[12:16] in _CLASSES else 0
    if space != bands and (space, bands) != (3, 1):  # grey in an RGB space is grey
        return "unusable", bands
    steps = np.rint(np.linspace(0, 255, 256 if space == 1 else _GRID)).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * space, indexing="ij"), axis=-1).reshape(1, -1, space)
    try:
        mapped = _transform(pyvips.Image.new_from_array(grid), profile).numpy()
    except pyvips.Error:
        return "unusable", bands
    if space == 4:
        return "applied", space
    difference = np.abs(mapped.astype(np.int16) - grid.astype(np.int16))
    return "srgb" if difference.max() <= _SAME else "applied", space


def _transform(image: Any, profile: bytes) -> Any:
    import pyvips

    wide = image.format == "ushort"
    names = {1: "grey16" if wide else "b-w", 3: "rgb16" if wide else "srgb", 4: "cmyk"}
    tagged = image.copy(interpretation=names[image.bands])
    tagged.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return tagged.icc_transform(_SRGB, embedded=True, intent=_INTENT, depth=8)


def _plain_cmyk(image: Any) -> Any:
    full = 65535.0 if image.format == "ushort" else 255.0
    paper = full - image
    rgb = paper.extract_band(0, n=3) * paper.extract_band(3) * (255 / full / full)
    return rgb.rint().cast("uchar").copy(interpretation="srgb")
