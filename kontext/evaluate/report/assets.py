"""The report's pictures: PNG files named by content, enlarged so that 64 px art looks good."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # [H, W, 3]
DISPLAY_SIDE = 192  # px; cards show pictures at about 90 CSS px, so this is sharp at 2x density


def png_bytes(image: Image, side: int | None = None) -> bytes:
    """PNG of [H, W, 3]; enlarged (Lanczos) so that the longer side is `side`, never shrunk."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(image)
    if side is not None and max(picture.size) < side:
        scale = side / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


class Assets:
    """Files next to index.html, under `assets/`. Equal pictures are stored once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "assets").mkdir(parents=True, exist_ok=True)

    def image(self, image: Image, side: int = DISPLAY_SIDE) -> str:
        """Store a picture [H, W, 3] and return its path relative to index.html."""
        key = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:16]
        name = f"assets/{key}-{side}.png"
        if not (self.folder / name).exists():
            self.add(name, png_bytes(image, side))
        return name

    def add(self, name: str, data: bytes) -> str:
        """Store bytes under `name` (relative, inside assets/) and return the name."""
        assert name.startswith("assets/") and ".." not in name
        (self.folder / name).write_bytes(data)
        return name


def contact_sheet(rows: list[list[Image]], labels: list[str], heads: list[str]) -> bytes:
    """One PNG below 1 MB: rows of pictures in their shapes, a line of text under each, heads.

    Args:
        labels: one per row, drawn under it.
        heads: one per column.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    side, gap, text, top = 96, 8, 20, 24
    columns = max(len(row) for row in rows)
    width = gap + columns * (side + gap)
    height = top + len(rows) * (side + text + gap)
    sheet = Pillow.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font: Any = ImageFont.load_default(11)
    for x, head in enumerate(heads):
        draw.text((gap + x * (side + gap), 6), head, fill="#666e7a", font=font)
    for y, (row, label) in enumerate(zip(rows, labels, strict=True)):
        line = top + y * (side + text + gap)
        for x, image in enumerate(row):
            picture = Pillow.fromarray(image)
            wide, tall = (max(1, round(n * side / max(picture.size))) for n in picture.size)
            tile = picture.resize((wide, tall), Pillow.Resampling.LANCZOS)
            left = gap + x * (side + gap) + (side - wide) // 2
            sheet.paste(tile, (left, line + (side - tall) // 2))
        draw.text((gap, line + side + 3), _fit(label, width - 2 * gap, draw, font), "#15181d", font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _fit(text: str, width: int, draw: Any, font: Any) -> str:
    while text and draw.textlength(text, font=font) > width:
        text = text[:-2].rstrip() + "…" if not text.endswith("…") else text[:-2] + "…"
    return text
