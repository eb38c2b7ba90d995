"""Looks for what is left of a picture: in every file and database below folders, and in texts."""

import base64
import hashlib
import io
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from kontext.data.pixels import encode_png, pixel_id
from kontext.safety.pdq import pdq_dihedral

_SLICE = 48  # bytes from the middle of a picture: nothing else has them


class Traces:
    """All that would point back at a picture: bytes, hashes and pixels of it, and its names."""

    def __init__(self, data: bytes, *names: str, image: Image.Image | None = None) -> None:
        """`data` is the file; `image` the picture, where it is not what the file shows first."""
        found: dict[str, list[bytes]] = {}
        shown = (image or Image.open(io.BytesIO(data))).convert("RGB")
        for what, one in (("the file", data), ("its pixels", _png(shown))):
            found[f"bytes of {what}"] = _slices(one)
            for kind in ("sha256", "sha1", "md5"):
                found[f"{kind} of {what}"] = _digest(hashlib.new(kind, one).digest())
        rgb = np.asarray(shown)
        found["pixels"] = [_middle(rgb.tobytes())]
        found["pixel id"] = _digest(bytes.fromhex(pixel_id(rgb)))
        hashes, _ = pdq_dihedral(rgb)
        found["pdq"] = [form for one in hashes for form in _digest(one.tobytes())]
        found["name"] = [name.encode() for name in names]
        self._found = found

    def in_bytes(self, data: bytes) -> set[str]:
        """What of it is in these bytes."""
        return {what for what, forms in self._found.items() if any(form in data for form in forms)}

    def left(
        self, *folders: Path, texts: Iterable[object] = (), without: Iterable[Path] = ()
    ) -> dict[str, set[str]]:
        """Where something of it is -> what; empty where nothing is left.

        Args:
            folders: every file below them is read; tables and databases by their values too.
            texts: logs and the like.
            without: files that may have it: the source itself, an operator's list.
        """
        found: dict[str, set[str]] = {}
        for folder in folders:
            for path in sorted(folder.rglob("*")):
                if any(path == one or one in path.parents for one in without):
                    continue
                hits = self.in_bytes(str(path.relative_to(folder)).encode())
                if path.is_file() and not path.is_symlink():
                    for part in _parts(path):
                        hits |= self.in_bytes(part)
                if hits:
                    found[str(path)] = hits
        for number, text in enumerate(texts):
            if hits := self.in_bytes(_text(text)):
                found[f"text {number}"] = hits
        return found


def _text(text: object) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogateescape")


def _png(image: Image.Image) -> bytes:
    return encode_png(np.asarray(image))


def _middle(data: bytes) -> bytes:
    start = len(data) // 2
    return data[start : start + _SLICE]


def _slices(data: bytes) -> list[bytes]:
    """The middle as it is, and in base64 at each of three alignments."""
    middle = _middle(data)
    return [middle, *(base64.b64encode(middle[shift : shift + 30]) for shift in range(3))]


def _digest(raw: bytes) -> list[bytes]:
    return [raw, raw.hex().encode(), raw.hex().upper().encode(), base64.b64encode(raw)]


def _parts(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        for row in pq.read_table(path, partitioning=None).to_pylist():
            yield from map(_text, _values(row))
    elif data.startswith(b"SQLite format 3\0"):
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (name,) in names.fetchall():
                for row in database.execute(f'SELECT * FROM "{name}"'):
                    yield from map(_text, row)


def _values(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _values(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _values(one)
    else:
        yield value
        if isinstance(value, str) and "\\u" in value:
            yield json.dumps(value).encode().decode("unicode_escape")
