"""Quality of a pair from its pixels: how much changed, and is it more than nothing.

All scores are raw; limits are the policy's. Differences are taken in floating point: on uint8 they
wrap, which has made published L1 thresholds meaningless (one level darker scored 1.0).
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kontext.data.pixels import Pixels

Values = NDArray[np.float64]

CHANGED_ABOVE = 16  # levels of 255 by which one channel must differ for a pixel to have changed
_BLOCK_PIXELS = 1 << 20  # per block of work: keeps temporaries below 100 MB
_WINDOW, _SIGMA = 11, 1.5  # Wang et al. 2004
_C1, _C2 = 0.01**2, 0.03**2


class Quality(NamedTuple):
    """Scores of N image pairs, float64 [N] each."""

    ssim: Values  # -1 to 1
    l1: Values  # 0 to 1
    changed_frac: Values  # 0 to 1
    largest_blob: Values  # 0 to 1: the largest connected area that changes, of the picture


def quality(context: Pixels, target: Pixels) -> Quality:
    """SSIM, mean absolute difference and changed shares of pairs of images [N, H, W, 3]."""
    # here, because a training machine, which evaluates by `ssim`, has no OpenCV
    from kontext.data.quality.geometry import largest_blob

    assert context.shape == target.shape and context.dtype == target.dtype == np.uint8
    l1 = np.empty(len(context))
    changed, blob = np.empty(len(context)), np.empty(len(context))
    for rows in _blocks(context):
        x, y = context[rows], target[rows]
        difference = np.maximum(x, y) - np.minimum(x, y)  # cannot wrap
        red, green, blue = (difference[..., channel] for channel in range(3))
        largest = np.maximum(np.maximum(red, green), blue)
        flat = difference.reshape(len(x), -1)
        l1[rows] = flat.sum(1, dtype=np.int64) / (255 * flat.shape[1])
        masks = largest > CHANGED_ABOVE
        changed[rows] = masks.mean((1, 2))
        blob[rows] = [largest_blob(mask) for mask in masks]
    return Quality(ssim(context, target), l1, changed, blob)


def ssim(a: Pixels, b: Pixels, padded: bool = False) -> Values:
    """Structural similarity, float64 [N], for uint8 images [N, H, W, 3]: the mean over R, G and B.

    Luma alone is blind to a change between colours of equal brightness, which would drop such edits
    as "nothing changed". Gaussian window of 11 pixels and sigma 1.5, only where it fits (Wang et
    al. 2004); images smaller than the window use the largest odd window that fits.

    Args:
        padded: as torchmetrics has it: around every pixel, pictures mirrored at their edges.
    """
    assert a.shape == b.shape
    found = np.empty(len(a))
    kernel = _gaussian(_window(a))
    for rows in _blocks(a):
        index = _similarity(a[rows], b[rows], kernel, padded)
        found[rows] = index.mean((1, 2, 3)).double().numpy()
    return found


def ssim_within(a: Pixels, b: Pixels, masks: NDArray[np.bool_]) -> Values:
    """The same, padded, over the pixels of a mask [N, H, W]; nan where there are none."""
    kernel = _gaussian(_window(a))
    found = np.full(len(a), np.nan)
    for row, mask in enumerate(masks):
        if mask.any():
            index = _similarity(a[row : row + 1], b[row : row + 1], kernel, True)[0].mean(0)
            found[row] = float(index.numpy()[mask].mean(dtype=np.float64))
    return found


def _window(images: Pixels) -> int:
    height, width = map(int, images.shape[1:3])
    return min(_WINDOW, height - 1 + height % 2, width - 1 + width % 2)


def _similarity(a: Pixels, b: Pixels, kernel: Tensor, padded: bool) -> Tensor:
    """Of every channel [N, 3], and window that fits [H', W'], or, padded, every pixel [H, W]."""
    x, y = _unit(a), _unit(b)  # [n, 3, H, W]
    if padded:
        x, y = (F.pad(each, [len(kernel) // 2] * 4, mode="reflect") for each in (x, y))
    moments = torch.cat([x, y, x * x, y * y, x * y], 1)
    mean_x, mean_y, xx, yy, xy = torch.split(_smooth(moments, kernel), 3, 1)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance, variances = xy - product, xx + yy - squares
    index = (2 * product + _C1) * (2 * covariance + _C2)
    index /= (squares + _C1) * (variances + _C2)
    return index


def _blocks(images: Pixels) -> list[slice]:
    size = max(1, _BLOCK_PIXELS // max(1, images.shape[1] * images.shape[2]))
    return [slice(start, start + size) for start in range(0, len(images), size)]


def _unit(images: Pixels) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [0, 1], channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _gaussian(window: int) -> Tensor:
    offsets = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    weights = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    return (weights / weights.sum()).float()


def _smooth(maps: Tensor, kernel: Tensor) -> Tensor:
    """Separable filter of [N, C, H, W] without padding."""
    channels = maps.shape[1]
    maps = maps.contiguous(memory_format=torch.channels_last)  # 6x the speed of depthwise NCHW
    rows = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return F.conv2d(F.conv2d(maps, rows, groups=channels), columns, groups=channels)
