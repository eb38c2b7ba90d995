"""Subjects200K: one subject in two scenes, side by side in one picture, with a text for each."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kontext.data.layouts.base import Opened, Picture, Problem, Row, shown, walk
from kontext.data.layouts.parquet_cell import ParquetCell
from kontext.data.layouts.tile import tiles
from kontext.errors import SourceError

ORDER = 4
SHOWS = """\
    data/train-*.parquet       columns image (two tiles), collection, quality_assessment,
                               description: Subjects200K, both ways round"""

_COLUMNS = {"image", "collection", "quality_assessment", "description"}
_BORDER, _GUTTER = 8, 16  # pixels around the tiles, and between them
_SCORES = ("compositeStructure", "objectConsistency", "imageQuality")
_BEST = 5  # of 5: the set's authors train on pairs that have it in all three


def matches(path: Path) -> bool:
    """Whether a file, or one in a folder, has the set's columns."""
    return any(True for _ in _tables(path))


def rows(path: Path) -> Iterator[Row | Problem | Opened]:
    """Two rows per picture: each tile is the target once."""
    root = path if path.is_dir() else path.parent
    for table in _tables(path):
        try:
            with pq.ParquetFile(table) as file:
                for group in range(file.num_row_groups):
                    names = ["description", "quality_assessment"]
                    values = file.read_row_group(group, columns=names).to_pylist()
                    for number, row in enumerate(values):
                        at = f"{shown(table, root)}:{group}:{number}"
                        cell = ParquetCell(table, group, number, "image")
                        yield from _both(at, Picture(f"{at}:image", table, cell), row)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise SourceError(f"{table.name}: {error}") from error
        yield Opened(table)


def _both(at: str, whole: Picture, row: Mapping[str, Any]) -> Iterator[Row | Problem]:
    said = row["description"] or {}
    texts = [said.get(f"description_{number}") for number in (0, 1)]
    item = said.get("item")
    if not said.get("description_valid") or not item or not all(texts):
        yield Problem(at, "set_refuses", "its texts are not valid")
        return
    scores = [(row["quality_assessment"] or {}).get(name) for name in _SCORES]
    if any(score is None or score < _BEST for score in scores):
        yield Problem(at, "set_refuses", f"its scores are {scores}, {_BEST} is the best")
        return
    left, right = tiles(whole, _BORDER, _GUTTER)
    for name, before, after, text in (
        ("there", left, right, texts[1]),
        ("back", right, left, texts[0]),
    ):
        instruction = f"Show the same {item} elsewhere: {text}"
        yield Row(f"{at}:{name}", after, (before,), instruction, whole.ref, "subject", str(text))


def _tables(path: Path) -> Iterator[Path]:
    every = [path] if path.is_file() else [one for one, reason in walk(path) if not reason]
    for one in every:
        if one.suffix.lower() == ".parquet" and _names(one) >= _COLUMNS:
            yield one


def _names(table: Path) -> set[str]:
    try:
        return set(pq.read_schema(table).names)
    except (OSError, pa.ArrowException, UnicodeDecodeError):
        return set()
