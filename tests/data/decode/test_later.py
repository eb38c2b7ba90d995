"""Every picture of a file is shown to whoever asks, or the file is refused."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kontext.data.decode import LaterError, Reason, decode_image
from kontext.data.decode.result import MAX_CHECKED
from tests.data.decode.hostile_parts import gif_frames, saved

Shown = list[NDArray[np.uint8]]
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))
KINDS: dict[str, dict[str, Any]] = {
    "gif": {}, "png": {}, "webp": {"lossless": True}, "tiff": {}, "avif": {"quality": 95},
    "mpo": {},
}  # fmt: skip


def several(kind: str, *colours: tuple[int, int, int]) -> bytes:
    frames = [Image.new("RGB", (48, 32), colour) for colour in colours]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], **KINDS[kind])


def shown(data: bytes, most: int = 100) -> Shown:
    """What is shown, until that is `most`."""
    found: Shown = []

    def later(rgb: NDArray[np.uint8]) -> bool:
        found.append(rgb.copy())
        return len(found) < most

    decode_image(data, resolution=None, background="#ffffff", later=later)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_all_pictures_behind_the_first_are_shown(kind: str) -> None:
    found = shown(several(kind, *COLOURS))
    assert [rgb.shape for rgb in found] == [(32, 48, 3)] * 2
    for rgb, colour in zip(found, COLOURS[1:], strict=True):
        assert np.abs(rgb.astype(int) - colour).max() <= 12
    assert len(shown(several(kind, *COLOURS), most=1)) == 1  # and no more than are asked for
    assert not shown(several(kind, COLOURS[0]))
    assert len(shown(several(kind, *COLOURS))) == 2  # the decoder goes on


def test_a_frame_is_what_a_viewer_shows() -> None:
    """On the background, over what the frames before have left."""
    clear = Image.new("RGBA", (48, 32), (0, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 24, 32))
    first = Image.new("RGBA", (48, 32), (255, 0, 0, 255))
    data = saved(first, "png", save_all=True, append_images=[clear], disposal=1, blend=0)
    decoded: Shown = shown(data)
    assert (decoded[0][:, :24] == (0, 0, 255)).all() and (decoded[0][:, 24:] == 255).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (gif_frames(1, MAX_CHECKED + 1), Reason.TOO_MANY_FRAMES),
        (several("gif", *COLOURS)[:-30], Reason.TRUNCATED),
        (several("png", *COLOURS).replace(b"fdAT", b"fdXT"), Reason.CORRUPT),
        (several("mpo", *COLOURS)[:-60], Reason.TRUNCATED),
    ],
    ids=["too many", "cut gif", "png without frames", "cut jpeg"],
)
def test_where_one_cannot_be_checked_the_file_is_refused(data: bytes, reason: Reason) -> None:
    with pytest.raises(LaterError) as caught:
        shown(data, most=MAX_CHECKED + 1)
    assert caught.value.reason == reason
    assert caught.value.first.rgb.shape[2] == 3
    assert decode_image(data, resolution=None, background="#ffffff").frames > 1


def test_an_error_of_whoever_looks_ends_the_picture() -> None:
    def later(rgb: NDArray[np.uint8]) -> bool:
        raise LookupError("mine")

    data = several("gif", *COLOURS)
    with pytest.raises(LookupError, match="mine"):
        decode_image(data, resolution=None, background="#ffffff", later=later)
    assert len(shown(data)) == 2
