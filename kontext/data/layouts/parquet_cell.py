"""A picture inside a Parquet file."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kontext.errors import SourceError, TooLargeError


@dataclass(frozen=True)
class ParquetCell:
    """A picture in a Parquet file: `column` is a struct with `bytes`, or binary, or a list of them.

    `index` is the place in the list, -1 where the column is none.
    """

    path: Path
    group: int  # row group
    row: int  # inside the group
    column: str
    index: int = -1

    def read(self, limit: int) -> bytes:
        """The bytes of the cell. Raises SourceError, TooLargeError where they are too many."""
        where = f"{self.path.name}: row {self.row} of group {self.group}, {self.column}"
        try:
            value = _column(self.path, self.group, self.column)[self.row].as_py()
            if self.index >= 0:
                value = value[self.index]
        except (OSError, pa.ArrowException, IndexError, TypeError) as error:
            raise SourceError(f"{where}: {error}") from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes) or not data:
            raise SourceError(f"{where}: holds no picture")
        if len(data) > limit:
            raise TooLargeError(f"{where}: {len(data):,} bytes, limit {limit:,}")
        return data


@lru_cache(maxsize=4)
def _column(path: Path, group: int, column: str) -> pa.ChunkedArray:
    """One column of one row group: neighbouring rows are read together."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column])[column]
