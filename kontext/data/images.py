"""Reading the pictures that ingest kept, each at the size that it is trained at."""

import mmap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pyarrow.parquet as pq

from kontext.data.buckets import Buckets, Fit, Size, fit, whole
from kontext.data.pixels import Pixels, decode_png, png_size
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import read_parquet

_DECODED_BYTES, _PNG_BYTES = 1 << 29, 1 << 28  # of pictures that are held in memory
_AT_A_TIME = 16  # pictures of a Parquet file


class ImageBank:
    """The images of an ingest artifact by pixel id.

    Read on first use and then kept: 0.75 GiB in memory, more as PNG in temporary files (`TMPDIR`).

    `ids` lists them in the artifact's order, which is the order of the plan.

    Args:
        buckets: the sizes that they are read at; None: as they were stored.
    """

    def __init__(self, ingest: Artifact, buckets: Buckets | None = None) -> None:
        self._ingest, self._buckets = ingest, buckets
        self._files = ingest.names("pixels/")
        self._where: dict[str, tuple[int, int]] = {}
        for number, name in enumerate(self._files):
            column = read_parquet(ingest.path(name), ["pixel_id"])
            for row, found in enumerate(column["pixel_id"].to_pylist()):
                self._where[found] = (number, row)
        self.ids: list[str] = list(self._where)
        self._pngs: dict[int, list[bytes | memoryview]] = {}
        self._pngs_bytes = 0
        self._kept: dict[str, Pixels] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, pixel_id: object) -> bool:
        return pixel_id in self._where

    def png(self, pixel_id: str) -> bytes:
        """The stored PNG. Raises KeyError for an id this artifact does not hold."""
        number, row = self._where[pixel_id]
        if number not in self._pngs:
            self._pngs[number] = self._read(self._ingest.path(self._files[number]))
        return bytes(self._pngs[number][row])

    def _read(self, path: Path) -> list[bytes | memoryview]:
        """The PNGs of one file: in memory, and in a temporary file where they are many.

        Stages ask in the order of pairs, for any picture at any time, and a Parquet file gives none
        without unpacking its neighbours.
        """
        if self._pngs_bytes + path.stat().st_size > _PNG_BYTES:
            return _unpacked(path)
        self._pngs_bytes += path.stat().st_size
        return list(_pngs_in(path))

    def size(self, pixel_id: str) -> Size:
        """(width, height) as stored. Raises KeyError for an unknown id."""
        return png_size(self.png(pixel_id))

    def stored(self, pixel_id: str) -> Pixels:
        """Pixels as stored, uint8 [H, W, 3]. Raises KeyError for an unknown id."""
        return decode_png(self.png(pixel_id))

    def fit(self, pixel_id: str, beside: str | None = None) -> Fit:
        """What brings a picture to its size in training: one of the forms that ingest has gated.

        So a context is at its target's size, but cut by its own sides: where the two have other
        numbers of pixels, they may lie half a pixel of the smaller one apart.

        Args:
            beside: the target that it is a context of.
        """
        size = self.size(pixel_id)
        if self._buckets is None:
            return whole(size)
        forms = self._buckets.forms(size)
        wanted = self._buckets.fit(size, None if beside is None else self.size(beside)).size
        return next((form for form in forms if form.size == wanted), forms[0])

    def rgb(self, pixel_id: str) -> Pixels:
        """Read-only pixels at the picture's size in training, uint8 [H, W, 3].

        Raises KeyError for an unknown id.
        """
        found = self._kept.get(pixel_id)
        if found is None:
            found = self.fit(pixel_id)(self.stored(pixel_id))
            found.setflags(write=False)
            if self._bytes + found.nbytes <= _DECODED_BYTES:
                self._kept[pixel_id] = found
                self._bytes += found.nbytes
        return found

    def onto(self, pixel_id: str, target: str) -> Pixels:
        """A picture at a target's size: by the target's transform, or cropped to that shape."""
        transform, size = self.fit(pixel_id, beside=target), self.fit(target).size
        if transform.size != size:
            transform = fit(self.size(pixel_id), size)
        if transform == self.fit(pixel_id):
            return self.rgb(pixel_id)
        return transform(self.stored(pixel_id))

    def batch(self, ids: Sequence[str]) -> Pixels:
        """Pixels of several images of one size, uint8 [N, H, W, 3]."""
        return np.stack([self.rgb(pixel_id) for pixel_id in ids])

    def by_size(self, ids: Sequence[str], pixels: int, most: int) -> Iterator[list[int]]:
        """Places in `ids` of pictures of one size: at most so many, and so many pixels in all."""
        sizes: dict[Size, list[int]] = {}
        for place, name in enumerate(ids):
            sizes.setdefault(self.fit(name).size, []).append(place)
        for (width, height), places in sizes.items():
            step = max(1, min(most, pixels // (width * height)))
            yield from (places[low : low + step] for low in range(0, len(places), step))


def _pngs_in(path: Path) -> Iterator[bytes]:
    """The PNGs of a file of pixels, some at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_AT_A_TIME, columns=["png"]):
            yield from batch.column(0).to_pylist()


def _unpacked(path: Path) -> list[bytes | memoryview]:
    """The PNGs of a file, lying in a temporary one that goes with the last of them."""
    ends = [0]
    with TemporaryFile() as file:
        for png in _pngs_in(path):
            file.write(png)
            ends.append(ends[-1] + len(png))
        file.flush()
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if ends[-1] else b""
    return [view[first:end] for first, end in pairwise(ends)]
