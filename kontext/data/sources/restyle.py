"""Other styles of a drawing, made from its SVG: pixel art and line art.

Every pixel of them follows from the drawing, so restyling asks for no invention. The way back does:
colours and detail are gone, and the miner makes no pair of it.
"""

import re
from collections.abc import Callable

_INK = "#1e293b"
_PIXELS, _SIDE = 16, 256  # sides of pixel art, in its own pixels and as a picture


def line_art(svg: bytes) -> bytes:
    """SVG of the shapes in white with ink around them. What is ink already stays, shades go."""
    text = re.sub(r'(<rect [^>]*height="100"[^>]*fill=)"#\w+"', r'\1"white"', svg.decode(), count=1)
    text = re.sub(r'\bopacity="[^"]*"', 'opacity="0"', text)
    text = re.sub(r'fill="(#[0-9a-fA-F]{3,8})"', _outlined, text)
    return re.sub(r'stroke="#[0-9a-fA-F]{3,8}"', f'stroke="{_INK}"', text).encode()


def _outlined(found: re.Match[str]) -> str:
    if found.group(1).lower() == _INK:
        return found.group(0)
    return f'fill="#ffffff" stroke="{_INK}" stroke-width="2"'


def pixel_art(svg: bytes) -> bytes:
    """PNG of the drawing in 16 x 16 pixels, each of them a square."""
    import pyvips

    small = pyvips.Image.thumbnail_buffer(svg, _PIXELS, height=_PIXELS, size="force")
    if small.hasalpha():
        small = small.flatten(background=[255, 255, 255])
    large = small.resize(_SIDE / _PIXELS, kernel="nearest")
    return bytes(large.pngsave_buffer(compression=1))


FLAT = "flat"  # the drawing as it is
RESTYLED: dict[str, Callable[[bytes], bytes]] = {"line art": line_art, "pixel art": pixel_art}
