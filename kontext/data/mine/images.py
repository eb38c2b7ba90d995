"""The images of an ingest artifact as miners see them: columns, and one object where one is used.

Two million images are half a gigabyte here, and several as objects. A miner that looks at groups
of images asks `rows_by` for them, and has the objects of one group made at a time.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kontext.data.mine.candidate import MinedImage, Moment

COLUMNS = ("pixel_id", "source", "group_key", "concept", "attributes", "license_spdx")  # of IMAGES
_AT_A_TIME = 4096


class ImageRows(Sequence[MinedImage]):
    """The images in the order of their ids.

    Args:
        images: an IMAGES table, at least `COLUMNS` of it.
        moments: a MOMENTS table.
        load: pixels by id.
    """

    def __init__(
        self, images: pa.Table, moments: pa.Table, load: Callable[[str], NDArray[np.uint8]]
    ) -> None:
        self._table = images.select(COLUMNS).sort_by("pixel_id").combine_chunks()
        self._ids = self._table["pixel_id"]
        self._moments = moments[::-1]  # of one picture's moments the last one counts
        found = pc.index_in(self._ids, value_set=self._moments["pixel_id"].combine_chunks())
        self._moment_rows = found.fill_null(-1)
        self._load = load

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, row: int) -> MinedImage: ...
    @overload
    def __getitem__(self, row: slice) -> list[MinedImage]: ...
    def __getitem__(self, row: int | slice) -> MinedImage | list[MinedImage]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        if row >= len(self):
            raise IndexError(row)
        values = {name: self._table[name][row].as_py() for name in COLUMNS}
        return self._image(values, self._moment_rows[row].as_py())

    def __iter__(self) -> Iterator[MinedImage]:
        first = 0
        for batch in self._table.to_batches(max_chunksize=_AT_A_TIME):
            moments = self._moment_rows[first : first + len(batch)].to_pylist()
            first += len(batch)
            for values, moment in zip(batch.to_pylist(), moments, strict=True):
                yield self._image(values, moment)

    def of(self, pixel_id: str) -> MinedImage:
        """The image of that id. Raises KeyError for an unknown one."""
        row = bisect_left(range(len(self)), pixel_id, key=self._id)
        if row == len(self) or self._id(row) != pixel_id:
            raise KeyError(pixel_id)
        return self[row]

    def _id(self, row: int) -> str:
        found: str = self._ids[row].as_py()
        return found

    def _image(self, values: Mapping[str, Any], moment_row: int) -> MinedImage:
        moment = None
        if moment_row >= 0:
            found = {name: self._moments[name][moment_row].as_py() for name in _MOMENT}
            moment = Moment(**{_MOMENT[name]: value for name, value in found.items()})
        labels = json.loads(values["attributes"])
        return MinedImage(**{**values, "attributes": labels}, load=self._load, moment=moment)


_MOMENT = {"kind": "kind", "series": "series", "shot": "shot", "at_s": "at"}  # column -> field
