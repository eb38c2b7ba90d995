"""Measures of one edit that need no model: what changed, and how far it is from a known target.

Sizes differ, so every measure says what it compares at which size. A measure that does not apply
to an item has no value there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kontext.data.quality.pixels import CHANGED_ABOVE, ssim
from kontext.evaluate.pixels import Picture, psnr

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_COPIED = 0.001  # share of changed pixels below which an edit did nothing
_THRESHOLDS = range(11)  # of the colour difference, see `_iou`
Mask = NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True)
class Made:
    """An edit: uint8 [H, W, 3] each; mask: bool of the context's size, where it may change."""

    output: Picture
    context: Picture | None = None
    target: Picture | None = None
    mask: Mask | None = None


@dataclass(frozen=True)
class Measure:
    """A number of an edit; None where it does not apply."""

    title: str
    unit: str  # "" or "%"
    better: Literal["higher", "lower", ""]
    definition: str
    value: Callable[[Made], float | None]


def resized(picture: Picture, like: Picture) -> Picture:
    """A picture at another's size, bicubic."""
    from PIL import Image

    if picture.shape == like.shape:
        return picture
    how = Image.Resampling.BICUBIC
    return np.array(Image.fromarray(picture).resize((like.shape[1], like.shape[0]), how))


def _difference(a: Picture, b: Picture) -> NDArray[np.float64]:
    """Absolute difference [H, W, 3], 0 to 1, at the size of b."""
    return np.abs(resized(a, b).astype(np.float64) - b) / 255


def _changed(made: Made) -> float | None:
    if made.context is None:
        return None
    largest = _difference(made.output, made.context).max(axis=2)
    return float((largest > CHANGED_ABOVE / 255).mean())


def _copied(made: Made) -> float | None:
    share = _changed(made)
    return None if share is None else float(share < _COPIED)


def _l1(made: Made) -> float | None:
    return None if made.target is None else float(_difference(made.output, made.target).mean())


def _l2(made: Made) -> float | None:
    if made.target is None:
        return None
    return float((_difference(made.output, made.target) ** 2).mean())


def _psnr(made: Made) -> float | None:
    if made.target is None:
        return None
    return float(psnr(resized(made.output, made.target)[None], made.target[None])[0])


def _ssim(made: Made) -> float | None:
    if made.target is None:
        return None
    return float(ssim(resized(made.output, made.target)[None], made.target[None])[0])


def _outside(made: Made) -> float | None:
    if made.mask is None or made.context is None or made.mask.all():
        return None
    return float(_difference(made.output, made.context).mean(axis=2)[~made.mask].mean())


def _iou(made: Made) -> float | None:
    """PaintBench's: right pixels of the edit ÷ (the edit and wrong pixels outside of it).

    A pixel is right where its colour is at most a threshold from the answer's, in CIE 1976; the
    mean over the thresholds from 0 to 10. The output is brought to the answer's size by nearest
    neighbours, and its middle is taken.
    """
    if made.target is None or made.context is None or made.context.shape != made.target.shape:
        return None
    edit = (made.context != made.target).any(axis=2)
    far = np.linalg.norm(_lab(_covering(made.output, made.target)) - _lab(made.target), axis=2)
    found = []
    for threshold in _THRESHOLDS:
        right = far <= threshold
        whole = edit.sum() + (~edit & ~right).sum()
        found.append((edit & right).sum() / whole if whole else 1.0)
    return float(np.mean(found))


def _covering(picture: Picture, like: Picture) -> Picture:
    """The middle of a picture, so large that it covers another one's size."""
    from PIL import Image

    (tall, wide), (height, width) = like.shape[:2], picture.shape[:2]
    if (tall, wide) == (height, width):
        return picture
    scale = max(wide / width, tall / height)
    size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
    large = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))
    top, left = (size[1] - tall) // 2, (size[0] - wide) // 2
    return large[top : top + tall, left : left + wide]


_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])  # D65
_KINK = 6 / 29


def _lab(picture: Picture) -> NDArray[np.float64]:
    """CIE L*a*b* [H, W, 3] of sRGB."""
    values = picture / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T / _WHITE
    bent = np.where(xyz > _KINK**3, np.cbrt(xyz), xyz / (3 * _KINK**2) + 4 / 29)
    x, y, z = bent[..., 0], bent[..., 1], bent[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


MEASURES: Mapping[str, Measure] = {
    "changed": Measure(
        "changed",
        "%",
        "",
        f"share of pixels that differ from the input by more than {CHANGED_ABOVE} of 255 in a "
        "channel, at the input's size",
        _changed,
    ),
    "copied": Measure(
        "copied",
        "%",
        "lower",
        "share of items in which less than a pixel in a thousand is changed",
        _copied,
    ),
    "l1": Measure("L1", "", "lower", "mean absolute error to the target, 0 to 1", _l1),
    "l2": Measure("L2", "", "lower", "mean squared error to the target, 0 to 1", _l2),
    "psnr": Measure("PSNR", "dB", "higher", "to the target, peak 255", _psnr),
    "ssim": Measure("SSIM", "", "higher", "to the target, over RGB", _ssim),
    "outside": Measure(
        "L1 outside",
        "",
        "lower",
        "mean absolute error to the input outside of the mask, 0 to 1",
        _outside,
    ),
    "iou": Measure(
        "mIoU",
        "%",
        "higher",
        "right pixels of the edit ÷ the edit and wrong pixels outside, over 11 thresholds",
        _iou,
    ),
}


def measured(made: Made, names: tuple[str, ...]) -> dict[str, float | None]:
    """The named measures of an edit."""
    return {name: MEASURES[name].value(made) for name in names}
