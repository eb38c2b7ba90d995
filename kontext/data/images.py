"""Reading canonical images back, and putting many of them on one sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from kontext.data.pixels import Pixels, decode_png
from kontext.store.artifacts.artifact_store import Artifact

_CACHE_BYTES = 1 << 30


class ImageBank:
    """The images of an ingest artifact by pixel id. Decoded on first use and then kept (to 1 GiB).

    `ids` lists them in the artifact's order, which is the order of the plan.
    """

    def __init__(self, ingest: Artifact) -> None:
        self._ingest = ingest
        self._files = ingest.names("pixels/")
        self._where: dict[str, tuple[int, int]] = {}
        for number, name in enumerate(self._files):
            column = pq.read_table(ingest.path(name), columns=["pixel_id"], partitioning=None)
            for row, pixel_id in enumerate(column["pixel_id"].to_pylist()):
                self._where[pixel_id] = (number, row)
        self.ids: list[str] = list(self._where)
        self._pngs: dict[int, pa.ChunkedArray] = {}
        self._decoded: dict[str, Pixels] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, pixel_id: object) -> bool:
        return pixel_id in self._where

    def png(self, pixel_id: str) -> bytes:
        """The stored PNG. Raises KeyError for an id this artifact does not hold."""
        number, row = self._where[pixel_id]
        if number not in self._pngs:
            path = self._ingest.path(self._files[number])
            self._pngs[number] = pq.read_table(path, columns=["png"], partitioning=None)["png"]
        png: bytes = self._pngs[number][row].as_py()
        return png

    def rgb(self, pixel_id: str) -> Pixels:
        """Read-only pixels, uint8 [H, W, 3]. Raises KeyError for an unknown id."""
        found = self._decoded.get(pixel_id)
        if found is None:
            found = decode_png(self.png(pixel_id))
            found.setflags(write=False)
            if self._bytes + found.nbytes <= _CACHE_BYTES:
                self._decoded[pixel_id] = found
                self._bytes += found.nbytes
        return found

    def batch(self, ids: Sequence[str]) -> Pixels:
        """Pixels of several images of one size, uint8 [N, H, W, 3]."""
        return np.stack([self.rgb(pixel_id) for pixel_id in ids])


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
        cell: side of a cell in pixels; images are scaled to it.
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
    picture = Image.fromarray(np.ascontiguousarray(image))
    grows = max(picture.size) < cell
    method = Image.Resampling.NEAREST if grows and not smooth else Image.Resampling.LANCZOS
    return picture.resize((cell, cell), method)


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
