"""Other styles of a drawing, made from its SVG: pixel art and line art.

Every pixel of them follows from the drawing, so restyling asks for no invention. The way back does:
colours and detail are gone, and the miner makes no pair of it.
"""

import re
from collections.abc import Callable
from xml.etree import ElementTree

_INK = "#1e293b"
_DARK = 0x40  # largest channel of what counts as ink already
_LINES = 50  # of a line's width in a drawing's side
_PIXELS, _SIDE = 16, 256  # sides of pixel art, in its own pixels and as a picture
_SVG = "http://www.w3.org/2000/svg"
_COLOUR = re.compile(r"#[0-9a-fA-F]{3,8}")
_CLEAR = ("opacity", "fill-opacity", "style")  # shades and lights: what is under them stays


def line_art(svg: bytes) -> bytes:
    """SVG of the shapes in white with ink around them. What is ink already stays, shades go."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    side = float(root.attrib["viewBox"].split()[3])
    ground = next((it for it in root.iter(f"{{{_SVG}}}rect") if _covers(it, side)), None)
    for shape in root.iter():
        if shape is ground:
            shape.set("fill", "#ffffff")
        else:
            _ink(shape, side / _LINES)
    return ElementTree.tostring(root)


def _covers(rect: ElementTree.Element, side: float) -> bool:
    """Whether this is a drawing's background, not the frame that clips it."""
    return "fill" in rect.attrib and float(rect.get("height", 0)) >= side


def _ink(shape: ElementTree.Element, width: float) -> None:
    fill, stroke = shape.get("fill", ""), shape.get("stroke", "")
    if any(name in shape.attrib for name in _CLEAR) or fill.startswith("url("):
        shape.set("opacity", "0")
    if _COLOUR.fullmatch(stroke):
        shape.set("stroke", _INK)
    if _COLOUR.fullmatch(fill) and not _is_dark(fill):
        shape.set("fill", "#ffffff")
        shape.set("stroke", _INK)
        shape.attrib.setdefault("stroke-width", f"{width:g}")


def _is_dark(colour: str) -> bool:
    digits = colour[1:] if len(colour) > 5 else "".join(2 * one for one in colour[1:])
    return max(int(digits[i : i + 2], 16) for i in (0, 2, 4)) <= _DARK


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
