"""`decode_image`, for everybody outside this package."""

from kontext.data.decode.process import PROCESS
from kontext.data.decode.raster import check_bytes
from kontext.data.decode.result import Decoded


def decode_image(
    data: bytes, *, resolution: int | None, background: str, svg: bool = False
) -> Decoded:
    """Decode untrusted bytes to sRGB pixels, in a process whose memory and time are limited.

    Args:
        data: the file.
        resolution: side of the square result, or None to keep the decoded size.
        background: "#rrggbb" under transparency.
        svg: accept SVG (packaged art only: SVG is a program, not a picture).

    Raises:
        DecodeError: with a `Reason`.
    """
    check_bytes(data)
    options = {"resolution": resolution, "background": background, "svg": svg}
    return PROCESS.decode(data, options)
