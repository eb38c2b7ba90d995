"""Reading the files that public benches are published as. What is broken is a BenchError."""

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kontext.errors import BenchError

CHANGES_RESULTS = False  # for users; no stage runs a public bench


@dataclass(frozen=True)
class PictureAt:
    """Where a picture is: a file, a member of a zip, or a cell of a Parquet file.

    A cell holds the bytes, or a struct with `bytes`, as the hub's image columns do.
    """

    path: Path
    member: str = ""
    column: str = ""
    group: int = 0
    row: int = 0  # in its row group

    def __str__(self) -> str:
        inside = self.member or (f"{self.column}[{self.group}:{self.row}]" if self.column else "")
        return f"{self.path}:{inside}" if inside else str(self.path)

    def within(self, folder: Path) -> str:
        """Its name seen from a folder that has it."""
        return str(self).removeprefix(f"{folder}/")

    def exists(self) -> bool:
        """Whether there is anything; whether it is a picture, reading it will tell."""
        if not self.path.is_file():
            return False
        if self.member:
            return self.member in _members(self.path)
        return not self.column or bool(_cell(self))

    def read(self) -> bytes:
        """Its bytes. Raises BenchError."""
        try:
            if self.column:
                return _cell(self)
            if self.member:
                with zipfile.ZipFile(self.path) as archive:
                    return archive.read(self.member)
            return self.path.read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise BenchError(f"cannot read {self}: {error}") from error


@lru_cache(maxsize=4)
def _members(path: Path) -> frozenset[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise BenchError(f"cannot read {path}: {error}") from error


def _cell(at: PictureAt) -> bytes:
    value = _cells(at.path, at.group, at.column)[at.row]
    if isinstance(value, Mapping):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else b""


@lru_cache(maxsize=2)  # items follow each other in a file
def _cells(path: Path, group: int, column: str) -> list[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        found: list[Any] = file.read_row_group(group, columns=[column])[column].to_pylist()
    return found


def parquet_rows(path: Path, columns: list[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(row group, row in it, its columns) of every row. Raises BenchError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = set(columns) - set(file.schema_arrow.names)
            if missing:
                raise BenchError(f"{path} has no column {', '.join(sorted(missing))}")
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=columns).to_pylist()
                yield from ((group, number, row) for number, row in enumerate(rows))
    except (OSError, pa.ArrowException) as error:
        raise BenchError(f"cannot read {path}: {error}") from error


def picture_rows(
    folder: Path, get: str, columns: list[str], picture: str
) -> Iterator[tuple[str, dict[str, Any], str, PictureAt]]:
    """(place, row, base picture, where its picture is) of every row of `data/*.parquet`.

    Equal pictures are one base picture, whatever their names. Raises BenchError.
    """
    files = sorted((folder / "data").glob("*.parquet"))
    if not files:
        raise BenchError(f"there is no {folder}/data/*.parquet; get the data with: {get}")
    for path in files:
        for group, number, row in parquet_rows(path, [*columns, picture]):
            cell = row[picture]
            data = (cell.get("bytes") if isinstance(cell, dict) else cell) or b""
            at = PictureAt(path, column=picture, group=group, row=number)
            where = f"{path}, row {number} of group {group}"
            yield where, row, hashlib.sha256(data).hexdigest()[:16], at


def json_file(path: Path, get: str) -> Any:
    """What a JSON file says. `get` is the command that downloads it. Raises BenchError."""
    try:
        return json.loads(_text(path, get))
    except ValueError as error:
        raise BenchError(f"{path} is no JSON: {error}") from error


def json_lines(path: Path, get: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every line. Raises BenchError."""
    for number, line in enumerate(_text(path, get).split("\n"), 1):  # U+2028 is no end of a line
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BenchError(f"{path}:{number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise BenchError(f"{path}:{number} is no JSON object")
        yield f"{path}:{number}", row


def table_rows(path: Path, get: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, columns by name) of every row of a file with a heading. Raises BenchError."""
    lines = io.StringIO(_text(path, get).lstrip("\ufeff"), newline="")
    if delimiter == "\t":  # there quotes are letters
        rows = csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        rows = csv.DictReader(lines, delimiter=delimiter)
    for number, row in enumerate(rows, 2):
        yield f"{path}:{number}", row


def word(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that has to be there, as text. Raises BenchError."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BenchError(f"{where} has no '{name}'")
    return str(value)


def inside(folder: Path, name: str, where: str) -> Path:
    """The file `name` of a folder. Raises BenchError for a name that leads out of it.

    By the name alone: the hub's client may link files of a folder to its cache.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BenchError(f"{where}: '{name}' leads out of {folder}")
    return folder / name


def first_there(folder: Path, *names: str) -> Path:
    """The first of several files that is in a folder; the first name where none is."""
    paths = [folder / name for name in names]
    return next((path for path in paths if path.exists()), paths[0])


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path, get: str) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError as error:
        raise BenchError(f"there is no {path}; get the data with: {get}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"cannot read {path}: {error}") from error
