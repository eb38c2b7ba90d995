"""What people do to pictures, from what must be seen through to what PDQ is known not to."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Picture = Image.Image
CHANGES_RESULTS = False  # measures; a stage never asks it


@dataclass(frozen=True)
class Transform:
    """One way to change a picture."""

    family: str
    name: str
    strength: float  # within its family, for the curve
    apply: Callable[[Picture], Picture]


# families in which 99 % of matchable pictures have to be known again
REQUIRED = ("JPEG", "resize", "orientation", "mild color")
# families whose recall falls with strength: the curve shows how
CURVES = ("crop", "border", "rotation")


def transforms() -> list[Transform]:
    """All of them, by family."""
    return [
        *(Transform("JPEG", f"quality {q}", q, _jpeg(q)) for q in (30, 40, 50, 60, 70, 80, 90, 95)),
        *(Transform("resize", f"{p} %", p, _resized(p / 100)) for p in (25, 33, 50, 75, 150)),
        *_orientations(),
        *_colors(),
        Transform("watermark", "a word across", 1, _watermark(96)),
        Transform("watermark", "a bold word across", 2, _watermark(200)),
        *(Transform("crop", f"{p} %", p, _cropped(p / 100)) for p in (1, 2, 3, 5, 7, 10)),
        *(Transform("border", f"{p} %", p, _bordered(p / 100)) for p in (1, 2, 5, 10)),
        *(Transform("rotation", f"{d}°", d, _rotated(d)) for d in (1, 2, 3, 5)),
        Transform("noise", "sigma 8", 8, _noise(8)),
        Transform("blur", "radius 2", 2, lambda p: p.filter(ImageFilter.GaussianBlur(2))),
        Transform("several", "75 %, then JPEG 50", 1, lambda p: _jpeg(50)(_resized(0.75)(p))),
        Transform("several", "mirrored, then JPEG 40", 2, lambda p: _jpeg(40)(ImageOps.mirror(p))),
    ]


def rgb_of(picture: Picture) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]."""
    return np.asarray(picture.convert("RGB"), np.uint8)


def _jpeg(quality: int) -> Callable[[Picture], Picture]:
    def apply(picture: Picture) -> Picture:
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=quality)
        return Image.open(data)

    return apply


def _resized(factor: float) -> Callable[[Picture], Picture]:
    def apply(picture: Picture) -> Picture:
        size = (max(1, round(side * factor)) for side in picture.size)
        return picture.resize(tuple(size), Image.Resampling.LANCZOS)  # type: ignore[arg-type]

    return apply


def _orientations() -> list[Transform]:
    words = ("mirrored", "upside down", "90°", "180°", "270°", "transposed", "transversed")
    return [
        Transform("orientation", word, number, lambda p, way=way: p.transpose(way))  # type: ignore[misc]
        for number, (word, way) in enumerate(zip(words, Image.Transpose, strict=True))
    ]


def _colors() -> list[Transform]:
    def enhanced(
        family: str, kind: Callable[[Picture], ImageEnhance._Enhance], by: float
    ) -> Transform:
        word = kind.__name__.lower()
        return Transform(family, f"{word} {by:g}", by, lambda p: kind(p).enhance(by))

    def gamma(by: float) -> Transform:
        table = [round(255 * (value / 255) ** by) for value in range(256)] * 3
        return Transform("mild color", f"gamma {by:g}", by, lambda p: p.point(table))

    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    return [
        *(enhanced("mild color", kind, by) for kind in kinds for by in (0.9, 1.1)),
        gamma(0.9),
        gamma(1.1),
        Transform("mild color", "grayscale", 0, lambda p: p.convert("L").convert("RGB")),
        Transform("mild color", "warmer", 0, _warmer),
        *(enhanced("strong color", kind, by) for kind in kinds for by in (0.75, 1.25)),
    ]


def _warmer(picture: Picture) -> Picture:
    rgb = rgb_of(picture) * np.array([1.06, 1.0, 0.94])
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def _watermark(strength: int) -> Callable[[Picture], Picture]:
    def apply(picture: Picture) -> Picture:
        over = Image.new("RGBA", picture.size)
        size = max(12, picture.width // 8)
        place = picture.width // 8, picture.height // 2 - size // 2
        draw = ImageDraw.Draw(over)
        draw.text(place, "example.org", fill=(255, 255, 255, strength), font_size=size)
        return Image.alpha_composite(picture.convert("RGBA"), over).convert("RGB")

    return apply


def _cropped(share: float) -> Callable[[Picture], Picture]:
    """Without `share` of its width on the left and the right, and of its height."""

    def apply(picture: Picture) -> Picture:
        x, y = (max(1, round(side * share)) for side in picture.size)
        return picture.crop((x, y, picture.width - x, picture.height - y))

    return apply


def _bordered(share: float) -> Callable[[Picture], Picture]:
    def apply(picture: Picture) -> Picture:
        return ImageOps.expand(picture, max(1, round(min(picture.size) * share)), (255, 255, 255))

    return apply


def _rotated(degrees: float) -> Callable[[Picture], Picture]:
    """Turned, with the corners that come free in gray."""

    def apply(picture: Picture) -> Picture:
        return picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))

    return apply


def _noise(sigma: float) -> Callable[[Picture], Picture]:
    def apply(picture: Picture) -> Picture:
        rgb = rgb_of(picture)
        noise = np.random.default_rng(0).normal(0, sigma, rgb.shape)
        return Image.fromarray((rgb + noise).clip(0, 255).astype(np.uint8))

    return apply
