"""Samples of any depth to 8 or 16 bits on the full scale, by the range that is stated.

- PNG, PPM: the format states it; 8 bits and less: nobody doubts it.
- TIFF with MaxSampleValue or SMaxSampleValue: that is white, unless it is only the picture's own
  largest value, which many programs write there.
- TIFF of 16 and more bits without: the full scale, as TIFF 6.0 has it, unless the two upper bits
  are never used. Then the samples may have 10, 12 or 14 bits, and nothing tells which.
- floats without: 0 to 1, with a few highlights above it, or else nothing tells.
- signed integers without: nothing tells.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kontext.data.decode.opened import Range
from kontext.data.decode.result import Reason
from kontext.errors import DecodeError

_WIDEST = {"uchar": 255, "ushort": 65535, "uint": 2**32 - 1}
_HIGHLIGHTS = 0.01  # share of samples that may lie outside 0 to 1
_BRIGHTEST = 16.0  # four stops above white


def to_full_scale(image: Any, again: Callable[[], Any], stated: Range | None, colours: int) -> Any:
    """Samples as uchar or ushort, full scale.

    Args:
        image: pyvips image, read once from here on.
        again: reads the same picture anew, to look for its largest value first.
        stated: what the file says; None where the depth says it all.
        colours: number of bands that have colour; others (alpha) are on the same scale.

    Raises:
        DecodeError: nothing tells the range.
    """
    if stated is None:
        if image.format in ("uchar", "ushort"):
            return image
        raise DecodeError(Reason.UNSUPPORTED_MODE, f"samples of kind {image.format}")
    if image.format in ("float", "double"):
        return _floats(again().numpy(), stated, colours)
    if image.format not in (*_WIDEST, "char", "short", "int"):
        raise DecodeError(Reason.UNSUPPORTED_MODE, f"samples of kind {image.format}")
    top = float(again().extract_band(0, n=colours).max())
    low, high = stated.low, _integer_white(image.format, top, stated)
    if (low, high) == (0, 65535) and image.format == "ushort":
        return image
    scaled = (image - low) * (65535 / (high - low))
    return clip_to(scaled, "ushort")


def clip_to(image: Any, kind: str) -> Any:
    """Rounded and clipped to uchar or ushort."""
    return image.rint().cast(kind)  # libvips clips as it casts


def _integer_white(kind: str, top: float, stated: Range) -> float:
    if stated.high is not None and _is_range(stated.high, top) and stated.high > stated.low:
        return stated.high
    widest = _WIDEST.get(kind)
    if widest is None or top <= widest // 4:
        raise DecodeError(
            Reason.RANGE, f"integers up to {top:g} of type {kind}, and the file states no range"
        )
    return widest


def _is_range(high: float, top: float) -> bool:
    """Whether a stated maximum is a scale, and not just the picture's largest value."""
    power = high + 1
    return high >= top and (high != top or (power > 255 and power == 2 ** round(np.log2(power))))


def _floats(values: NDArray[np.floating[Any]], stated: Range, colours: int) -> Any:
    import pyvips

    values = np.atleast_3d(values)
    finite = np.isfinite(values)
    values = np.where(finite, values, 0)
    colour = values[..., :colours]
    low, high = stated.low, stated.high
    top = float(colour.max(initial=0))
    if high is None or high <= low or not (high == 1 or _is_range(high, top)):
        low, high = 0.0, 1.0
        outside = ((colour < -1e-3) | (colour > 1)).mean()
        if outside > _HIGHLIGHTS or top > _BRIGHTEST or not finite.any():
            what = f"floats from {float(colour.min(initial=0)):g} to {top:g}"
            raise DecodeError(Reason.RANGE, f"{what}, and the file states no range")
    scaled = np.rint(np.clip((values - low) / (high - low), 0, 1) * 65535).astype(np.uint16)
    return pyvips.Image.new_from_array(np.ascontiguousarray(scaled))
