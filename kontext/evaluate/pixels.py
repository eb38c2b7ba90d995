"""Pixel metrics against known targets and masks. Images are uint8 [N, H, W, 3]; errors are 0-1.

Pictures of several sizes are an array of N objects. Metrics take pictures of one size; `alike` says
which those are.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # [N, H, W, 3], or [N] pictures of several sizes
Picture = NDArray[np.uint8]  # [H, W, 3]
Masks = NDArray[np.bool_]  # [N, H, W], or [N] masks of several sizes
Rows = NDArray[np.int64]  # indices of pictures
Values = NDArray[np.float64]  # [N]

PSNR_CAP = 100.0  # dB, for identical images


def as_images(pictures: NDArray[Any] | Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Pictures as one array: of numbers where all have one size, else of N objects."""
    if isinstance(pictures, np.ndarray):
        return pictures
    if len({picture.shape for picture in pictures}) == 1:
        return np.stack(pictures)
    found = np.empty(len(pictures), object)
    for row, picture in enumerate(pictures):
        found[row] = picture
    return found


def alike(images: NDArray[Any]) -> list[Rows]:
    """Rows of the pictures of each size, the smallest first; all of them where there is one."""
    if images.dtype != object:
        return [np.arange(len(images))]
    shapes = [picture.shape for picture in images]
    return [
        np.array([row for row, own in enumerate(shapes) if own == shape], np.int64)
        for shape in sorted(set(shapes))
    ]


def taken(images: NDArray[Any], rows: Rows) -> NDArray[Any]:
    """Some pictures, which have one size [n, H, W, 3]."""
    return np.stack(list(images[rows])) if images.dtype == object else images[rows]


def in_order(rows: Sequence[Rows], parts: Sequence[NDArray[Any]]) -> list[Any]:
    """What `parts` have for each of their rows, in the order of the rows."""
    found = dict(zip(np.concatenate(rows).tolist(), (x for p in parts for x in p), strict=True))
    return [found[row] for row in sorted(found)]


def change_mask(context: Images, target: Images, threshold: float) -> Masks:
    """What should change: max over channels of |target - context| above `threshold`, not dilated.

    The comparison is in float: uint8 arithmetic would wrap.
    """
    delta = np.abs(target.astype(np.float32) - context.astype(np.float32)) / 255.0
    return np.asarray(delta.max(axis=-1) > threshold)


def channel_means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means [N, H, W] of [N, H, W, 3]: `mean(axis=-1)`, which is slow where an axis is short."""
    red, green, blue = (values[..., channel] for channel in range(3))
    return np.asarray((red + green + blue) / np.float32(3))


def blurred(images: NDArray[Any], sigma: float) -> NDArray[np.float32]:
    """A Gaussian of `sigma` pixels over rows and columns, cut at 4 sigma; edges are mirrored.

    Here, not scipy's: stages after `index` run where there is no scipy.
    """
    radius = int(4 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    values = images.astype(np.float32)
    for axis in (1, 2):
        around = [(radius, radius) if at == axis else (0, 0) for at in range(values.ndim)]
        padded, length = np.pad(values, around, mode="symmetric"), values.shape[axis]
        lines = np.moveaxis(padded, axis, 0)
        total = np.moveaxis(np.zeros_like(values), axis, 0)
        for i, tap in enumerate(taps):
            total += lines[i : i + length] * tap
        values = np.moveaxis(total, 0, axis)
    return values


def grown(masks: Masks, pixels: int) -> Masks:
    """What is at most `pixels` steps up, down, left or right from a mask."""
    for _ in range(pixels):
        padded = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
        sides = (
            padded[:, :-2, 1:-1],
            padded[:, 2:, 1:-1],
            padded[:, 1:-1, :-2],
            padded[:, 1:-1, 2:],
        )
        masks = np.logical_or.reduce((masks, *sides))
    return masks


def masked_mae(a: Images, b: Images, mask: Masks) -> Values:
    """Mean absolute error [N] over masked pixels and all channels; nan where the mask is empty."""
    error = np.abs(a.astype(np.float64) - b.astype(np.float64)).mean(axis=-1) / 255.0
    pixels = mask.sum(axis=(1, 2)).astype(np.float64)
    total = (error * mask).sum(axis=(1, 2))
    return np.asarray(np.divide(total, pixels, out=np.full(len(a), np.nan), where=pixels > 0))


def psnr(a: Images, b: Images) -> Values:
    """Peak signal-to-noise ratio in dB (peak 255, all pixels and channels), capped at 100."""
    squared = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    return _decibels(squared.mean(axis=(1, 2, 3)))


def masked_psnr(a: Images, b: Images, mask: Masks) -> Values:
    """The same over masked pixels and all channels [N]; nan where the mask is empty."""
    squared = (a.astype(np.float64) - b.astype(np.float64)) ** 2
    pixels = mask.sum(axis=(1, 2)).astype(np.float64)
    total = (squared.mean(axis=-1) * mask).sum(axis=(1, 2))
    return _decibels(np.divide(total, pixels, out=np.full(len(a), np.nan), where=pixels > 0))


def _decibels(mse: Values) -> Values:
    with np.errstate(divide="ignore"):
        value = 10.0 * np.log10(255.0**2 / mse)
    return np.asarray(np.minimum(value, PSNR_CAP))


def row_cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> Values:
    """Cosine per row [N] of vectors [N, D]; nan where one is zero: no move, no direction."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    out = np.full(len(x), np.nan)
    return np.asarray(np.divide((x * y).sum(axis=1), scale, out=out, where=scale > 0))


def cosine_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> Values:
    """1 - cosine of row vectors [N, D], in 0-2. A zero vector is at distance 1 from everything."""
    distance = np.clip(1.0 - np.nan_to_num(row_cosine(a, b)), 0.0, 2.0)
    # rounding must not put an image at a negative distance from itself
    return np.asarray(np.where((a == b).all(axis=1), 0.0, distance))
