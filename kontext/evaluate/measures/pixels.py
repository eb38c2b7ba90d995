"""Distances in pixels: to the input, to a known target, and within or outside of a mask."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kontext.data.quality.pixels import CHANGED_ABOVE, ssim, ssim_within
from kontext.evaluate.measures.base import Made, Mask, Measure, plain, resized
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.pixels import Picture, Values, masked_psnr, psnr

CHANGES_RESULTS = False  # for users; no stage runs a public bench

COPIED = 0.001  # share of changed pixels below which an edit did nothing
_SSIM = Card(
    "kontext.data.quality.pixels.ssim (equal to torchmetrics')",
    resize="the result to the other picture's size, bicubic (Pillow)",
    crop="none; windows of 11 pixels, sigma 1.5, mirrored at the edges",
    dtype="float32",
)
Pairwise = Callable[[Picture, Picture, Mask], float]  # of result, other picture and where


def difference(a: Picture, b: Picture) -> NDArray[np.float64]:
    """Absolute difference [H, W, 3], 0 to 1, at the size of b."""
    return np.abs(resized(a, b).astype(np.float64) - b) / 255


def _changed(made: Made) -> float | None:
    if made.context is None:
        return None
    largest = difference(made.output, made.context).max(axis=2)
    return float((largest > CHANGED_ABOVE / 255).mean())


def _copied(made: Made) -> float | None:
    share = _changed(made)
    return None if share is None else float(share < COPIED)


def l1_within(a: Picture, b: Picture, mask: Mask) -> float:
    """Mean absolute error over a mask and all channels, 0 to 1."""
    return float(difference(a, b).mean(axis=2)[mask].mean())


def psnr_within(a: Picture, b: Picture, mask: Mask) -> float:
    """In dB, over a mask."""
    return _only(masked_psnr(resized(a, b)[None], b[None], mask[None]))


def similarity_within(a: Picture, b: Picture, mask: Mask) -> float:
    """SSIM over a mask."""
    return _only(ssim_within(resized(a, b)[None], b[None], mask[None]))


def _only(values: Values) -> float:
    return float(values[0])


def _to_target(measure: Callable[[Picture, Picture], float]) -> Callable[[Made], float | None]:
    return lambda made: None if made.target is None else measure(made.output, made.target)


def _inside(measure: Pairwise) -> Callable[[Made], float | None]:
    """To the target, where the picture may change."""

    def value(made: Made) -> float | None:
        if made.target is None or made.mask is None or made.mask.shape != made.target.shape[:2]:
            return None
        return known(measure(made.output, made.target, made.mask)) if made.mask.any() else None

    return value


def _outside(measure: Pairwise) -> Callable[[Made], float | None]:
    """To the input, where it may not."""

    def value(made: Made) -> float | None:
        if made.mask is None or made.context is None or made.mask.all():
            return None
        return known(measure(made.output, made.context, ~made.mask))

    return value


def known(value: float) -> float | None:
    """None in place of nan."""
    return None if value != value else value


_L1 = "mean absolute error {}, 0 to 1"
_PSNR = "peak signal-to-noise ratio {}, RGB, peak 255, 100 where equal"
_SIMILAR = "structural similarity {}, mean over RGB"
_TARGET, _IN, _OUT = "to the target", "to the target, in the mask", "to the input, outside the mask"
MEASURES = {
    "changed": Measure(
        "changed",
        "%",
        "",
        f"share of pixels that differ from the input by more than {CHANGED_ABOVE} of 255 in a "
        "channel, at the input's size",
        plain(_changed),
    ),
    "copied": Measure(
        "copied",
        "%",
        "lower",
        "copy rate: share of items in which less than a pixel in a thousand is changed",
        plain(_copied),
    ),
    "l1": Measure(
        "L1",
        "",
        "lower",
        _L1.format(_TARGET),
        plain(_to_target(lambda a, b: float(difference(a, b).mean()))),
    ),
    "l2": Measure(
        "L2",
        "",
        "lower",
        "mean squared error to the target, 0 to 1",
        plain(_to_target(lambda a, b: float((difference(a, b) ** 2).mean()))),
    ),
    "psnr": Measure(
        "PSNR",
        "dB",
        "higher",
        _PSNR.format(_TARGET),
        plain(_to_target(lambda a, b: _only(psnr(resized(a, b)[None], b[None])))),
    ),
    "ssim": Measure(
        "SSIM",
        "",
        "higher",
        _SIMILAR.format(_TARGET),
        plain(_to_target(lambda a, b: _only(ssim(resized(a, b)[None], b[None], True))), _SSIM),
    ),
    "inside": Measure("L1 inside", "", "lower", _L1.format(_IN), plain(_inside(l1_within))),
    "inside_psnr": Measure(
        "PSNR inside", "dB", "higher", _PSNR.format(_IN), plain(_inside(psnr_within))
    ),
    "inside_ssim": Measure(
        "SSIM inside", "", "higher", _SIMILAR.format(_IN), plain(_inside(similarity_within), _SSIM)
    ),
    "outside": Measure("L1 outside", "", "lower", _L1.format(_OUT), plain(_outside(l1_within))),
    "outside_psnr": Measure(
        "PSNR outside", "dB", "higher", _PSNR.format(_OUT), plain(_outside(psnr_within))
    ),
    "outside_ssim": Measure(
        "SSIM outside",
        "",
        "higher",
        _SIMILAR.format(_OUT),
        plain(_outside(similarity_within), _SSIM),
    ),
}
