"""`decode_image`, for everybody outside this package."""

from collections.abc import Callable

from kontext.data.decode.process import PROCESS
from kontext.data.decode.raster import check_bytes
from kontext.data.decode.result import Decoded
from kontext.data.pixels import Pixels


def decode_image(
    data: bytes,
    *,
    resolution: int | None,
    background: str,
    svg: bool = False,
    later: Callable[[Pixels], bool] | None = None,
) -> Decoded:
    """Decode untrusted bytes to sRGB pixels, in a process whose memory and time are limited.

    Args:
        data: the file.
        resolution: side of the square result, or None to keep the decoded size.
        background: "#rrggbb" under transparency.
        svg: accept SVG (packaged art only: SVG is a program, not a picture).
        later: called with every picture behind the first, uint8 [H, W, 3], as frames of an
            animation or pages; returns whether to go on. The limits are for all of them together.

    Raises:
        DecodeError: with a `Reason`; LaterError where it is about a picture behind the first.
    """
    check_bytes(data)
    options = {"resolution": resolution, "background": background, "svg": svg}
    return PROCESS.decode(data, options, later)
