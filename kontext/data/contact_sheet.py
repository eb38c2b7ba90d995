"""Many pictures on one sheet, with labels: what stages show to people."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kontext.data.pixels import Pixels

CHANGES_RESULTS = False  # pictures for people

_INK, _PAPER, _MUTED, _GAP = (28, 30, 36), (255, 255, 255), (110, 114, 124), 6


def contact_sheet(
    rows: Sequence[Sequence[Pixels | None]],
    *,
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    cell: int = 96,
    smooth: bool = False,
    max_bytes: int = 1_000_000,
) -> bytes:
    """PNG of a grid of images with labels.

    Args:
        rows: images, uint8 [H, W, 3], None for an empty cell; rows may differ in length.
        column_labels, row_labels: words above the columns and left of the rows.
        captions: words below each cell.
        cell: side of a cell in pixels; images are scaled to fit it, in their own shapes.
        smooth: Lanczos instead of nearest neighbour when scaling up.
        max_bytes: the sheet is reduced until it fits.
    """
    assert rows, "a contact sheet needs at least one row"
    font, small = _font(13), _font(11)
    columns = max(len(row) for row in rows)
    margin = 190 if any(row_labels) else _GAP
    top = (20 if any(column_labels) else 0) + _GAP
    below = 30 if any(any(row) for row in captions) else 0
    pitch_x, pitch_y = cell + _GAP, cell + below + _GAP
    sheet = Image.new("RGB", (margin + columns * pitch_x, top + len(rows) * pitch_y), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for j, label in enumerate(column_labels[:columns]):
        text = _wrap(label, font, cell, 1)
        pen.text((margin + j * pitch_x + cell / 2, top - 6), text, _INK, font, anchor="md")
    for i, row in enumerate(rows):
        y = top + i * pitch_y
        if i < len(row_labels):
            text = _wrap(row_labels[i], font, margin - 2 * _GAP, max(1, cell // 18))
            pen.multiline_text((_GAP, y + 4), text, _INK, font, spacing=3)
        for j, image in enumerate(row):
            x = margin + j * pitch_x
            if image is not None:
                sheet.paste(_scaled(image, cell, smooth), (x, y))
            pen.rectangle((x - 1, y - 1, x + cell, y + cell), outline=(226, 228, 232))
            if i < len(captions) and j < len(captions[i]):
                text = _wrap(captions[i][j], small, cell, 2)
                pen.multiline_text((x, y + cell + 3), text, _MUTED, small, spacing=1)
    return _fit(sheet, max_bytes)


def _scaled(image: Pixels, cell: int, smooth: bool) -> Image.Image:
    """The picture in its own shape, as large as a cell holds, in the middle of one."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    grows = max(picture.size) < cell
    method = Image.Resampling.NEAREST if grows and not smooth else Image.Resampling.LANCZOS
    width, height = (max(1, round(side * cell / max(picture.size))) for side in picture.size)
    framed = Image.new("RGB", (cell, cell), _PAPER)
    place = ((cell - width) // 2, (cell - height) // 2)
    framed.paste(picture.resize((width, height), method), place)
    return framed


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib; Pillow's own font where that is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        own = ImageFont.load_default(size)
        assert isinstance(own, ImageFont.FreeTypeFont)
        return own
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> str:
    """`text` broken at spaces to at most `lines` lines of `width` pixels; what is left becomes …"""
    wrapped = [""]
    for word in text.split():
        trial = f"{wrapped[-1]} {word}".strip()
        if font.getlength(trial) > width and wrapped[-1]:
            wrapped.append(word)
        else:
            wrapped[-1] = trial
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], " ".join(wrapped[lines - 1 :])]
    return "\n".join(_clip(line, font, width) for line in wrapped)


def _clip(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


def _fit(sheet: Image.Image, max_bytes: int) -> bytes:
    while True:
        out = io.BytesIO()
        sheet.save(out, "PNG", compress_level=6)
        if out.tell() <= max_bytes or min(sheet.size) < 64:
            return out.getvalue()
        scale = max(0.5, min(0.9, (max_bytes / out.tell()) ** 0.5))
        size = (round(sheet.width * scale), round(sheet.height * scale))
        sheet = sheet.resize(size, Image.Resampling.LANCZOS)
