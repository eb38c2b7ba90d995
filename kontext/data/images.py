"""Reading canonical images back."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from kontext.data.pixels import Pixels, decode_png
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import read_parquet

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
            column = read_parquet(ingest.path(name), ["pixel_id"])
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
            self._pngs[number] = read_parquet(path, ["png"])["png"]
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
