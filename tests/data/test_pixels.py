import hashlib
import io
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kontext.data.pixels import Pixels, decode_png, encode_png, pixel_id
from kontext.errors import ArtifactError


def test_pixel_id_covers_pixels_and_shape() -> None:
    rgb = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
    assert pixel_id(rgb) == hashlib.sha256(b"rgb8:10x8:" + rgb.tobytes()).hexdigest()
    assert pixel_id(rgb) != pixel_id(rgb.reshape(10, 8, 3))
    assert pixel_id(rgb[:, ::-1]) == pixel_id(rgb[:, ::-1].copy())


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 20), st.randoms(use_true_random=False))
def test_png_round_trip(height: int, width: int, random: Any) -> None:
    rgb = np.frombuffer(random.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
    png = encode_png(rgb)
    assert np.array_equal(decode_png(png), rgb)
    assert encode_png(rgb) == png
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), rgb)


def searched(rgb: Pixels) -> bytes:
    """PNG as zlib's search for repeated strings makes it."""
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "PNG", compress_level=6)
    return out.getvalue()


def test_a_photograph_is_as_small_without_the_search_and_a_drawing_is_searched() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((256, 192), Image.Resampling.BICUBIC))
    grain = np.random.default_rng(1).integers(-4, 5, smooth.shape)
    photograph = np.clip(smooth.astype(int) + grain, 0, 255).astype(np.uint8)
    assert encode_png(photograph) != searched(photograph)
    assert len(encode_png(photograph)) < 1.05 * len(searched(photograph))
    drawing = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    assert encode_png(drawing) == searched(drawing)


@pytest.mark.parametrize("keep", [0, 7, 40, 200])
def test_a_damaged_png_is_an_artifact_error(keep: int) -> None:
    png = encode_png(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    with pytest.raises(ArtifactError, match="no PNG of ours"):
        decode_png(png[:keep])


def test_pillow_gives_the_same_pixels_where_there_is_no_opencv(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (9, 17, 3), np.uint8)
    png = encode_png(rgb)
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert np.array_equal(decode_png(memoryview(png)), rgb)
    assert decode_png(png).flags.writeable
    for keep in (0, 7, 40, 200):
        with pytest.raises(ArtifactError, match="no PNG of ours"):
            decode_png(png[:keep])
