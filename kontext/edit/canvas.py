"""Pixels on their way into the model and out: canvases, tensors, and masks of where to edit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kontext.data.buckets import Size
from kontext.edit.detail import enlarge
from kontext.errors import KontextError

Image = NDArray[np.uint8]  # [H, W, 3], RGB
Images = NDArray[np.uint8]  # [B, H, W, 3], RGB
Mask = NDArray[np.bool_]  # [H, W], True where the image may change
_FEATHER = 1 / 96  # of the shorter side


@dataclass(frozen=True)
class Frame:
    """Where an image lies inside the model's canvas, in pixels."""

    left: int
    top: int
    width: int
    height: int

    def crop(self, canvas: Image) -> Image:
        """The part of a canvas [H, W, 3] inside the frame."""
        return canvas[self.top : self.top + self.height, self.left : self.left + self.width]


def check_image(image: Image) -> Image:
    """Return `image` if it is an RGB array.

    Raises:
        KontextError: it is not uint8 [H, W, 3].
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise KontextError("images must be uint8 arrays [height, width, 3]")
    return image


def fit(
    image: Image, size: Size, background: tuple[int, int, int], stretch: bool = False
) -> tuple[Image, Frame]:
    """Bring `image` to `size` by Lanczos: letterboxed on `background`, or stretched to fill.

    Kontext's sizes are so many that stretching moves the aspect by a few percent at most, which is
    what BFL's sampler does.
    """
    width, height = size
    inner = inner_size((image.shape[1], image.shape[0]), size, stretch)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    canvas = np.full((height, width, 3), background, np.uint8)
    canvas[top : top + inner[1], left : left + inner[0]] = resize(image, inner)
    return canvas, Frame(left, top, *inner)


def inner_size(image: Size, size: Size, stretch: bool = False) -> Size:
    """The part of a canvas of `size` that a picture fills: all of it, or what keeps its shape."""
    if stretch:
        return size
    scale = min(size[0] / image[0], size[1] / image[1])
    return max(1, round(image[0] * scale)), max(1, round(image[1] * scale))


def bring_back(original: Image, before: Image, after: Image, restore: bool = True) -> Image:
    """An edit [h, w, 3] at the size of the picture [H, W, 3] that it was made of.

    Args:
        before: the picture as the model was given it, of the edit's size.
        restore: the picture's own detail where the edit changed nothing, or only colour; else the
            edit is enlarged as it is.
    """
    plain = resize(after, original.shape[1::-1])
    if not restore or after.shape == original.shape:
        return plain
    if after.size > original.size:
        before, after = resize(before, original.shape[1::-1]), plain
    edited, small, whole, large = (to_tensor([p]) for p in (after, before, original, plain))
    return np.asarray(to_uint8(enlarge(edited, small, whole, large))[0])


def resize(image: Image, size: Size) -> Image:
    """`image` at `size` (width, height) by Lanczos."""
    from PIL import Image as Pil

    if image.shape[1::-1] == size:
        return image
    pil = Pil.fromarray(np.ascontiguousarray(image)).resize(size, Pil.Resampling.LANCZOS)
    return np.asarray(pil)


def to_tensor(images: Sequence[Image] | Images) -> Tensor:
    """uint8 [H, W, 3] arrays of one size -> float32 [B, 3, H, W] in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(list(images)))
    return stacked.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_uint8(pixels: Tensor) -> Images:
    """[B, 3, H, W] around [-1, 1] -> uint8 array [B, H, W, 3]."""
    scaled = pixels.float().add(1.0).mul(127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def check_mask(mask: Mask, image: Image) -> Mask:
    """Return `mask` if it fits `image` and lets something change.

    Raises:
        KontextError: another size or type than bool [H, W] of the image, or all False.
    """
    if mask.dtype != np.bool_ or mask.shape != image.shape[:2]:
        have = "x".join(map(str, mask.shape[::-1]))
        want = "x".join(map(str, image.shape[1::-1]))
        raise KontextError(f"the mask ({have}) must have the size of the image ({want})")
    if not mask.any():
        raise KontextError("the mask is empty: nothing may change")
    return mask


def latent_mask(mask: Mask, size: Size, stretch: bool, factor: int) -> Tensor:
    """Which latents an edit inside `mask` may change: [1, 1, H/factor, W/factor] bool.

    A latent is free as soon as one of its pixels is.
    """
    drawn = np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)
    canvas, _ = fit(drawn, size, (0, 0, 0), stretch)
    free = torch.from_numpy(canvas[None, None, ..., 0] > 0)
    return F.max_pool2d(free.float(), factor) > 0


def composite(before: Image, after: Image, mask: Mask, feather: int | None = None) -> Image:
    """`after` inside `mask`, `before` outside: outside the mask the pixels are `before`'s own.

    Args:
        feather: pixels over which the edit fades in, inside the mask; None takes 1/96 of the
            shorter side. What is thinner than twice the feather is changed in part only.
    """
    steps = max(1, round(min(mask.shape) * _FEATHER)) if feather is None else max(1, feather)
    inside = torch.from_numpy(mask)[None, None].float()
    weight = inside.clone()
    for _ in range(steps - 1):  # erode by one pixel; the image's own border is no edge
        inside = -F.max_pool2d(-inside, 3, stride=1, padding=1)
        weight += inside
    alpha = (weight / steps)[0, 0, ..., None].numpy()
    mixed = before + alpha * (after.astype(np.float32) - before)
    out: Image = np.where(mask[..., None], np.rint(mixed), before).astype(np.uint8)
    return out
