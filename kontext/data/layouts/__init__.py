"""Layouts of edit data: how pairs with given instructions lie on a disk.

To add a layout, write one file here: `SHOWS` (a drawing for people), `matches` and `rows`. What
each gives is in `base`; the source `pairs` reads whichever the path has.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from kontext.data.layouts.base import Problem, Row
from schemas.discovery import plugins

Rows = Callable[[Path], Iterator[Row | Problem]]


def layouts() -> dict[str, ModuleType]:
    """Name -> module of every layout."""
    return plugins(__name__, "matches")


def layout_of(path: Path) -> str:
    """The layout that `path` has, or "" for none that we know."""
    for name, module in sorted(layouts().items(), key=lambda item: (item[1].ORDER, item[0])):
        if module.matches(path):
            return name
    return ""


def rows_of(path: Path, layout: str) -> Iterator[Row | Problem]:
    """All rows of `path`, in a stable order, and what is wrong with those that are none.

    Raises:
        SourceError: the path cannot be read as that layout.
    """
    read: Rows = layouts()[layout].rows
    return read(path)


def drawings() -> str:
    """All layouts, drawn for somebody whose files fit none."""
    known = sorted(layouts().items(), key=lambda item: (item[1].ORDER, item[0]))
    return "\n\n".join(f"{name}:\n{module.SHOWS}" for name, module in known)
