"""Reading the pictures that ingest kept, each at the size that it is trained at."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from kontext.data.buckets import Buckets, Fit, Size, fit, whole
from kontext.data.pixels import Pixels, decode_png, png_size
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import read_parquet

_CACHE_BYTES = 1 << 30


class ImageBank:
    """The images of an ingest artifact by pixel id. Read on first use and then kept (to 1 GiB).

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
        self._pngs: dict[int, pa.ChunkedArray] = {}
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
            path = self._ingest.path(self._files[number])
            self._pngs[number] = read_parquet(path, ["png"])["png"]
        png: bytes = self._pngs[number][row].as_py()
        return png

    def size(self, pixel_id: str) -> Size:
        """(width, height) as stored. Raises KeyError for an unknown id."""
        return png_size(self.png(pixel_id))

    def stored(self, pixel_id: str) -> Pixels:
        """Pixels as stored, uint8 [H, W, 3]. Raises KeyError for an unknown id."""
        return decode_png(self.png(pixel_id))

    def fit(self, pixel_id: str, beside: str | None = None) -> Fit:
        """What brings a picture to its size in training.

        Args:
            beside: the target that it is a context of.
        """
        size = self.size(pixel_id)
        if self._buckets is None:
            return whole(size)
        return self._buckets.fit(size, None if beside is None else self.size(beside))

    def rgb(self, pixel_id: str) -> Pixels:
        """Read-only pixels at the picture's size in training, uint8 [H, W, 3].

        Raises KeyError for an unknown id.
        """
        found = self._kept.get(pixel_id)
        if found is None:
            found = self.fit(pixel_id)(self.stored(pixel_id))
            found.setflags(write=False)
            if self._bytes + found.nbytes <= _CACHE_BYTES:
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
