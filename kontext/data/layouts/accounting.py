"""One outcome for every entry below a path, whatever its layout makes of it."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kontext.data.layouts.base import Opened, Picture, Problem, Row, is_image, shown, walk

_WORDS = (".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".tar")


def accounted(
    path: Path, rows: Iterable[Row | Problem | Opened]
) -> Iterator[Row | Problem | Opened]:
    """What a layout gives, then a problem for every entry of which it says nothing.

    Reasons beside those of `walk`: pair_left_out (a picture whose pair is a problem), not_used (a
    picture, text or table that no row uses), other_kind (any other file). A file of which the
    layout gives a problem is not also given as opened.
    """
    root = path if path.is_dir() else path.parent
    said: set[str] = set()
    with_pair: dict[str, str] = {}
    for one in rows:
        if isinstance(one, Row):
            for picture in (*one.contexts, one.target):
                said.update(_names(picture, root))
        elif isinstance(one, Problem):
            said.add(one.at)
            with_pair.update((shown(picture, root), one.at) for picture in one.pictures)
        elif (name := shown(one.path, root)) in said:
            continue
        else:
            said.add(name)
        yield one
    for entry, reason in walk(path) if path.is_dir() else [(path, "")]:
        if (name := shown(entry, root)) not in said:
            yield _left(entry, name, reason, with_pair)


def _names(picture: Picture, root: Path) -> Iterator[str]:
    """The entry that a picture is, and the one that its path names, which may be a link to it."""
    if picture.part is not None:
        return  # inside a file, of which the layout says that it was opened
    yield picture.ref
    if picture.path.is_relative_to(root):
        name = shown(picture.path, root)
        yield os.path.normpath(name) if ".." in name else name  # as a table may write it


def _left(entry: Path, name: str, reason: str, with_pair: Mapping[str, str]) -> Problem:
    if reason:
        return Problem(name, reason)
    if name in with_pair:
        return Problem(name, "pair_left_out", f"with {with_pair[name]}")
    if is_image(entry):
        return Problem(name, "not_used", "a picture that no row uses")
    kind = entry.suffix.lower()
    if kind in _WORDS:
        return Problem(name, "not_used", "a text or table that no row uses")
    return Problem(name, "other_kind", f"{kind or 'without a suffix'}: no picture and no text")
