"""Tables of pairs: JSON lines, JSON, CSV or Parquet, with pictures as files or inside the table.

Reads the published edit data sets by their columns, and tables of one's own.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from kontext.data.layouts.base import (
    IMAGE_SUFFIXES,
    Opened,
    Picture,
    Problem,
    Row,
    shown,
    walk,
)
from kontext.data.layouts.conversations import turns_of
from kontext.data.layouts.known_sets import Columns, columns_of
from kontext.data.layouts.parquet_cell import ParquetCell
from kontext.data.layouts.set_files import SetFiles, Tars
from kontext.data.layouts.texts import table_rows
from kontext.data.layouts.web_picture import WebPicture, is_address
from kontext.errors import SourceError

ORDER = 4
SHOWS = """\
    pairs.jsonl                {"input_image": "a.png", "edited_image": "b.png",
                               "instruction": "…"}; also .json, .csv, metadata.jsonl in a folder
    data/*.parquet             the same columns with pictures inside: InstructPix2Pix, MagicBrush,
                               HQ-Edit, UltraEdit, OmniEdit, AnyEdit, NHR-Edit and their like
    set/editing.json           pictures may also be in images/ or editing/, or in tars of the set"""

_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_LOOKED_AT = 100  # rows that say what the columns are
_HASHED = 16  # hexadecimal digits
_NONE = frozenset({"", "none", "null", "nan"})


def matches(path: Path) -> bool:
    """Whether a file, or a folder's files, are tables whose columns say what is what."""
    return any(columns_in(table) is not None for table in tables(path))


def tables(path: Path) -> list[Path]:
    """The tables at `path`: itself, or those in the folder."""
    if path.is_file():
        return [path] if path.suffix.lower() in _SUFFIXES else []
    found = [one for one, reason in walk(path) if not reason]
    return [one for one in found if one.suffix.lower() in _SUFFIXES]


def rows(path: Path, *, addresses: bool = False) -> Iterator[Row | Problem | Opened]:
    """All rows of all tables in path order, then what no row names in the tars of the set.

    With `addresses` also columns that are named as addresses (`url`) are pictures.
    """
    root = path if path.is_dir() else path.parent
    tars = Tars(root)
    for table in tables(path):
        yield from _rows_of(table, root, tars, addresses)
        yield Opened(table)
    for tar, entry in tars.left():
        why = entry.reason or "not_used"
        yield Problem(f"{shown(tar, root)}:{entry.name}", why, entry.detail or "no row names it")
    yield from map(Opened, tars.opened())


def _rows_of(table: Path, root: Path, tars: Tars, addresses: bool) -> Iterator[Row | Problem]:
    columns = columns_in(table, addresses=addresses)
    if columns is None:
        yield Problem(shown(table, root), "not_used", "its columns say nothing of pairs")
    elif columns.unpaired:
        for at in _places(table, root):
            yield Problem(at, "context_missing", columns.unpaired)
    elif table.suffix.lower() == ".parquet":
        yield from _parquet_rows(table, root, tars, columns)
    else:
        yield from _text_rows(table, root, tars, columns)


@dataclass(frozen=True)
class _Table:
    """Where a row's pictures are looked for."""

    path: Path
    root: Path
    files: SetFiles
    group: int = -1  # row group of a Parquet file
    blobs: frozenset[str] = frozenset()  # its columns that are bytes, which are not in the row
    shared: frozenset[str] = frozenset()  # targets that several rows have, where none may

    def picture(self, value: Any, column: str, row: int, index: int = -1) -> Picture | str:
        """The picture that a cell names or holds; a reject reason where it is none."""
        if column in self.blobs or (isinstance(value, dict) and self.group >= 0):
            return self._inside(column, row, index)
        if not isinstance(value, str) or _is_none(value):
            return "picture_missing"
        if is_address(value):
            return Picture(value.strip(), self.path, WebPicture(value.strip()))
        if re.match(r"^[a-z][a-z0-9+.-]*://", value, re.IGNORECASE):
            return "picture_not_local"
        return self.files.picture(value)

    def _inside(self, column: str, row: int, index: int) -> Picture:
        ref = f"{shown(self.path, self.root)}:{self.group}:{row}:{column}"
        cell = ParquetCell(self.path, self.group, row, column, index)
        return Picture(ref if index < 0 else f"{ref}:{index}", self.path, cell)


def _places(table: Path, root: Path) -> Iterator[str]:
    """Where each row of a table stands."""
    if table.suffix.lower() != ".parquet":
        yield from (
            f"{shown(table, root)}:{number}" for number, _ in enumerate(table_rows(table), 1)
        )
        return
    with pq.ParquetFile(table) as file:
        for group in range(file.num_row_groups):
            rows = range(file.metadata.row_group(group).num_rows)
            yield from (f"{shown(table, root)}:{group}:{number}" for number in rows)


def _text_rows(table: Path, root: Path, tars: Tars, columns: Columns) -> Iterator[Row | Problem]:
    place = _Table(table, root, SetFiles(table, root, tars), shared=_shared(table, columns))
    for number, values in enumerate(table_rows(table), 1):
        if isinstance(values, Problem):
            yield values
        else:
            yield from _pairs(place, values, columns, number, f"{shown(table, root)}:{number}")


def _shared(table: Path, columns: Columns) -> frozenset[str]:
    """Targets that more than one row of a table names, where the set's rows may not."""
    if not columns.alone:
        return frozenset()
    found = (row.get(columns.target) for row in table_rows(table) if isinstance(row, dict))
    counts = Counter(value for value in found if isinstance(value, str))
    return frozenset(value for value, count in counts.items() if count > 1)


def _parquet_rows(table: Path, root: Path, tars: Tars, columns: Columns) -> Iterator[Row | Problem]:
    """Rows without their pictures' bytes: those are read one row group at a time, when needed."""
    try:
        with pq.ParquetFile(table) as file:
            wanted, blobs = _light_columns(file)
            files = SetFiles(table, root, tars)
            for group in range(file.num_row_groups):
                place = _Table(table, root, files, group, blobs)
                values = file.read_row_group(group, columns=wanted).to_pylist()
                for number, row in enumerate(values):
                    at = f"{shown(table, root)}:{group}:{number}"
                    yield from _pairs(place, row, columns, number, at)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{table.name}: {error}") from error


def _light_columns(file: pq.ParquetFile) -> tuple[list[str], frozenset[str]]:
    """(leaf columns without bytes, top columns that are nothing but bytes)."""
    leaves = [file.schema.column(i) for i in range(len(file.schema))]
    heavy = {
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type not in ("STRING", "JSON")
    }
    light = [leaf.path for leaf in leaves if leaf.path not in heavy]
    return light, frozenset(path for path in heavy if "." not in path)


def _pairs(
    place: _Table, values: Mapping[str, Any], columns: Columns, number: int, at: str
) -> Iterator[Row | Problem]:
    """The pair of one row, its way back if that has words, or all turns of a conversation."""
    if columns.turns:
        yield from _turns(place, values, columns, number, at)
        return
    contexts: list[Picture] = []
    for name in columns.contexts:
        for one in _listed(place, values.get(name), name, number):
            if isinstance(one, Picture):
                contexts.append(one)
            elif name == columns.contexts[0] or not _is_none(values.get(name)):
                yield Problem(at, one, f"{name}: {_short(values.get(name))}")
                return
    target = _target(place, columns.target, values.get(columns.target), columns, number)
    if not isinstance(target, Picture):
        yield Problem(at, target, f"{columns.target}: {_short(values.get(columns.target))}")
        return
    kind = place.path.stem if columns.named else _text(values.get(columns.kind))
    chain = _text(values.get(columns.chain))
    there = _text(values.get(columns.instruction))
    back = _text(values.get(columns.inverse))
    captions = _text(values.get(columns.target_caption)), _text(values.get(columns.context_caption))
    licence = _text(values.get("license_spdx")) or columns.licence  # as our own exports have it
    first = chain or _chain(contexts[0] if contexts else target)
    if not there:
        yield Problem(at, "instruction_missing", f"{columns.instruction} is empty")
    else:
        yield Row(at, target, tuple(contexts), there, first, kind, captions[0], licence)
    if back and len(contexts) == 1:
        yield Row(f"{at}:back", contexts[0], (target,), back, first, kind, captions[1], licence)


def _target(place: _Table, name: str, value: Any, columns: Columns, row: int) -> Picture | str:
    """The picture after, or a reject reason."""
    if isinstance(value, str) and value in place.shared:
        return "target_shared"
    found = _listed(place, value, name, row)[-1]
    if found != "picture_missing" or not columns.elsewhere or _is_none(value):
        return found
    address = columns.elsewhere + quote(str(value).lstrip("/"))
    return Picture(address, place.path, WebPicture(address))


def _chain(first: Picture) -> str:
    """What ties the pairs of one picture together. An address is named by a digest of it.

    The chain is stored with every picture of a pair, and a picture that the hash gate stops leaves
    no address behind.
    """
    if not isinstance(first.part, WebPicture):
        return first.ref
    return f"web {hashlib.sha256(first.ref.encode()).hexdigest()[:_HASHED]}"


def _turns(
    place: _Table, values: Mapping[str, Any], columns: Columns, number: int, at: str
) -> Iterator[Row | Problem]:
    """Turns of one conversation: each edits what the last one made, unless it says what."""
    turns = turns_of(values)
    if not turns:
        yield Problem(at, "row_malformed", "its turns and texts do not fit each other")
    chain, before = at, list[Picture | str]()
    for turn, one in enumerate(turns, 1):
        where, text = f"{at}:turn {turn}", _text(one.instruction)
        before = [place.picture(value, name, number) for name, value in one.before] or before
        after = _target(place, *one.after, columns, number)
        contexts = [picture for picture in before if isinstance(picture, Picture)]
        if turn == 1 and contexts:
            chain = _chain(contexts[0])
        lost = next((why for why in (*before, after) if isinstance(why, str)), "")
        if lost or not isinstance(after, Picture):
            yield Problem(where, lost, one.after[0])
        elif not text:
            yield Problem(where, "instruction_missing", "its text is empty")
        else:
            yield Row(where, after, tuple(contexts), text, chain, licence=columns.licence)
        before = [after]


def _listed(place: _Table, value: Any, column: str, row: int) -> list[Picture | str]:
    """The pictures of a cell, one or a list of them."""
    if isinstance(value, list):
        found = [place.picture(one, column, row, index) for index, one in enumerate(value)]
        return found or ["picture_missing"]
    return [place.picture(value, column, row)]


def _text(value: Any) -> str:
    """A cell as text, byte for byte; of a list of rewordings the last, which is the refined one."""
    if isinstance(value, list):
        value = value[-1] if value else ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value.strip().lower() not in _NONE else ""


def _is_none(value: Any) -> bool:
    return value in (None, []) or (isinstance(value, str) and value.strip().lower() in _NONE)


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:79] + "…"


def columns_in(table: Path, *, addresses: bool = False) -> Columns | None:
    """What the columns of a table are; None where they say nothing of pairs."""
    try:
        names, inside, rows = _looked_at(table)
    except (OSError, pa.ArrowException, UnicodeDecodeError, SourceError):
        return None
    pictures = [name for name in names if name in inside or _mostly_pictures(name, rows)]
    found = columns_of(names, pictures, addresses=addresses)
    return None if found is None else found.at(names, table.absolute())


def _looked_at(table: Path) -> tuple[list[str], set[str], list[dict[str, Any]]]:
    """(columns of a table, those with pictures inside, its first rows without these)."""
    if table.suffix.lower() != ".parquet":
        rows = [row for row in islice(table_rows(table), _LOOKED_AT) if isinstance(row, dict)]
        return list(dict.fromkeys(name for row in rows for name in row)), set(), rows
    with pq.ParquetFile(table) as file:
        schema = file.schema_arrow
        inside = {field.name for field in schema if _may_be_picture(field.type)}
        texts = [field.name for field in schema if _is_text(field.type)]
        batch = next(file.iter_batches(_LOOKED_AT, columns=texts), None) if texts else None
    return schema.names, inside, [] if batch is None else batch.to_pylist()


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column is text, or lists and structs with some and without bytes."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type)
    if pa.types.is_struct(kind):
        kinds = [field.type for field in kind]
        return any(map(_is_text, kinds)) and not any(map(pa.types.is_binary, kinds))
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _may_be_picture(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _may_be_picture(kind.value_type)
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {field.name for field in kind}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _mostly_pictures(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether half of a column's cells name a picture: an instruction may end in a file's name."""
    values = [value for row in rows if not _is_none(value := row.get(name))]
    return bool(values) and 2 * sum(map(_names_picture, values)) >= len(values)


def _names_picture(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_names_picture(one) for one in value)
    if isinstance(value, dict):  # a turn of a conversation
        return any(_names_picture(one) for one in value.values())
    if is_address(value):
        return True
    return isinstance(value, str) and Path(value).suffix.lower() in IMAGE_SUFFIXES
