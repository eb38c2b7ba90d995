"""Lists of addresses: a table whose pictures are on the web, as crawls and some sets have it."""

from collections.abc import Iterator
from pathlib import Path

from kontext.data.layouts import tables
from kontext.data.layouts.base import Opened, Problem, Row, is_image, walk

ORDER = 7
SHOWS = """\
    pictures.parquet           columns url (or URL, image_url) and caption (or TEXT, text):
                               captioned pictures; also .csv, .tsv, .jsonl, or a folder of them
    pairs.jsonl                {"before_url": "https://…", "after_url": "https://…",
                               "instruction": "…"}: pairs; fetched when the run ingests them"""


def matches(path: Path) -> bool:
    """Whether it is a table, or a folder of tables without pictures, with columns of addresses."""
    if path.is_dir() and any(not why and is_image(one) for one, why in walk(path)):
        return False  # tables beside pictures say where those are from
    return any(tables.columns_in(table, addresses=True) for table in tables.tables(path))


def rows(path: Path) -> Iterator[Row | Problem | Opened]:
    """All rows of all tables in path order."""
    return tables.rows(path, addresses=True)
