import hashlib
import io
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from kontext.safety.canaries import BANK_SIZE, canary_image, canary_items
from kontext.safety.hashes import HashGate
from kontext.safety.ids import Outcome, Reason
from kontext.safety.pdq import MAX_DISTANCE, distances, pdq_dihedral

# Known limit of the perceptual hash itself (ThreatExchange documents the same).
BEYOND_PDQ = {"crop-10%"}


def _jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def apply(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return apply


def _resize(width: int, height: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((width, height), Image.Resampling.BICUBIC)


def _turn(method: Image.Transpose) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.transpose(method)


def _noise(image: Image.Image) -> Image.Image:
    rng = np.random.Generator(np.random.PCG64(7))
    pixels = np.asarray(image, np.float32) + rng.normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _watermark(image: Image.Image) -> Image.Image:
    marked = image.copy()
    ImageDraw.Draw(marked).text((8, image.height - 20), "sample", fill=(255, 255, 255))
    return marked


# What ordinary re-posting does to a picture.
TRANSFORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "jpeg-95": _jpeg(95),
    "jpeg-60": _jpeg(60),
    "jpeg-30": _jpeg(30),
    "half": _resize(128, 128),
    "quarter": _resize(64, 64),
    "double": _resize(512, 512),
    "squeeze": _resize(256, 192),
    "rotate-90": _turn(Image.Transpose.ROTATE_90),
    "rotate-180": _turn(Image.Transpose.ROTATE_180),
    "rotate-270": _turn(Image.Transpose.ROTATE_270),
    "flip-x": _turn(Image.Transpose.FLIP_LEFT_RIGHT),
    "flip-y": _turn(Image.Transpose.FLIP_TOP_BOTTOM),
    "transpose": _turn(Image.Transpose.TRANSPOSE),
    "transverse": _turn(Image.Transpose.TRANSVERSE),
    "grey": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.3),
    "blur": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "noise": _noise,
    "watermark": _watermark,
    "crop-1%": lambda image: image.crop((1, 1, image.width - 1, image.height - 1)),
    "crop-10%": lambda image: image.crop((13, 13, image.width - 13, image.height - 13)),
    "border-5%": lambda image: ImageOps.expand(image, 6, (255, 255, 255)),
}


def transformed(number: int, name: str) -> tuple[bytes, NDArray[np.uint8]]:
    """Canary `number` after transform `name`: (PNG bytes, uint8 [H, W, 3])."""
    image = TRANSFORMS[name](canary_image(number))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), np.asarray(image)


def test_canaries_are_different_hashable_pictures():
    hashes = []
    for number in range(BANK_SIZE):
        (own, *_), quality = pdq_dihedral(np.asarray(canary_image(number)))
        assert quality >= 50
        hashes.append(own)
    apart = distances(np.stack(hashes)[:, None], np.stack(hashes)[None])
    assert apart[~np.eye(BANK_SIZE, dtype=bool)].min() > MAX_DISTANCE


def test_items_depend_only_on_the_seed():
    assert canary_items(3, 5) == canary_items(3, 5)
    assert canary_items(3, 5) != canary_items(3, 6)
    assert len(set(canary_items(BANK_SIZE))) == BANK_SIZE
    code = (
        "import hashlib; from kontext.safety.canaries import canary_items;"
        "print(hashlib.sha256(canary_items(1, 2)[0]).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(canary_items(1, 2)[0]).hexdigest()
    with pytest.raises(ValueError, match="16 canaries"):
        canary_items(17)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_gate_recalls_transformed_canaries(name):
    gate = HashGate()
    outcomes = [gate.check(*transformed(number, name)) for number in range(0, BANK_SIZE, 3)]
    stopped = [result.outcome is Outcome.DROP for result in outcomes]
    if name in BEYOND_PDQ:
        assert not all(stopped)  # if this ever changes, say so in the safety card
    else:
        assert all(stopped)
        assert {result.reason for result in outcomes} == {Reason.CANARY}


def test_there_are_twenty_transforms_and_none_is_idle():
    assert len(TRANSFORMS) >= 20
    plain = np.asarray(canary_image(0))
    for name in TRANSFORMS:
        data, pixels = transformed(0, name)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
        if name != "none":
            assert pixels.shape != plain.shape or not np.array_equal(pixels, plain)
