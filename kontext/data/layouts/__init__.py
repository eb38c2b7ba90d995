"""Layouts of edit data: how pairs with given instructions lie on a disk.

To add a layout, write one file here: `SHOWS` (a drawing for people), `matches` and `rows`. What
each gives is in `base`; the source `pairs` reads whichever the path has. What no row of a layout
speaks of is said by `accounting`.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from kontext.data.layouts.accounting import accounted
from kontext.data.layouts.base import Opened, Problem, Row
from schemas.discovery import plugins

Rows = Callable[[Path], Iterator[Row | Problem | Opened]]


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
    """All rows of `path`, in a stable order, and why every other row and entry is none.

    Raises:
        SourceError: the path cannot be read as that layout.
    """
    return (one for one in outcomes_of(path, layout) if not isinstance(one, Opened))


def outcomes_of(path: Path, layout: str) -> Iterator[Row | Problem | Opened]:
    """As `rows_of`, with the files that rows were read from: each entry has exactly one outcome.

    It is a picture of a row, a file that rows were read from, or a problem. Raises SourceError.
    """
    read: Rows = layouts()[layout].rows
    return accounted(path, read(path))


def drawings() -> str:
    """All layouts, drawn for somebody whose files fit none."""
    known = sorted(layouts().items(), key=lambda item: (item[1].ORDER, item[0]))
    return "\n\n".join(f"{name}:\n{module.SHOWS}" for name, module in known)
