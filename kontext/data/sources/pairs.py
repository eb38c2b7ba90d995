"""Pairs that somebody made, with their instructions: before/after folders, tables, edit data sets.

How the files lie is found out (`kontext.data.layouts`) or named by `layout`. Instructions are kept
byte for byte; a row that is no pair is counted with its reason.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from kontext.data.layouts import drawings, layout_of, layouts, rows_of
from kontext.data.layouts.base import Picture, Problem, Row, walk
from kontext.data.sources.base import GivenPair, Planned, Skipped, SourceItem
from kontext.errors import SourceError
from schemas.paths import expanded
from schemas.sections.sources import PathSource

ATTRIBUTION = ""  # the recipe names author and licence
UNKNOWN = "LicenseRef-unknown"


class PairsSource(PathSource):
    """Pairs with given instructions, at a path: a folder, or a table of pairs."""

    kind: Literal["pairs"] = "pairs"
    layout: str = Field("", title="Layout (empty: found out)")
    license_spdx: str = Field("", title="Licence (SPDX id; empty: the rows', the set's)")
    author: str = Field("unknown", title="Author")


def modules(config: PairsSource) -> list[str]:
    """The modules that read it: every layout's, because which one it is depends on the files."""
    return [module.__name__ for module in layouts().values()]


def plan(config: PairsSource) -> list[SourceItem]:
    """One item per picture. Raises SourceError as `read` does."""
    return read(config).items


def read(config: PairsSource) -> Planned:
    """All pictures and pairs, and what is neither.

    Raises:
        SourceError: nothing is there, its layout is none that we know, or no row is a pair.
    """
    path = expanded(config.path)
    layout = layout_for(path, config.layout)
    source = f"pairs:{path.resolve().name}"
    found = Planned()
    items: dict[str, SourceItem] = {}
    for row in rows_of(path, layout):
        if isinstance(row, Problem):
            found.skipped.append(Skipped(source, row.at, row.reason, row.detail))
            continue
        for picture in (*row.contexts, row.target):
            if picture.ref not in items:
                own = config.license_spdx or row.licence or UNKNOWN
                items[picture.ref] = _item(source, picture, row, own, config.author)
        found.pairs.append(_pair(source, row))
    if not found.pairs:
        raise SourceError(
            f"{config.path} looks like {layout}, but no row is a pair: {_reasons(found.skipped)}"
        )
    found.items.extend(items.values())
    return found


def local_files(config: PairsSource) -> list[tuple[str, Path]]:
    """(name, path) of every file whose contents belong to the identity of what is ingested."""
    path = expanded(config.path)
    if path.is_file():
        # a table names pictures beside it
        return [(path.name, path), *_pictures_of(config, path)]
    files = (one for one, reason in walk(path) if not reason)
    return [(one.relative_to(path).as_posix(), one) for one in files]


def _pictures_of(config: PairsSource, table: Path) -> Iterator[tuple[str, Path]]:
    layout = config.layout or layout_of(table)
    if not layout:
        return
    seen = {table}
    for row in rows_of(table, layout):
        for picture in () if isinstance(row, Problem) else (*row.contexts, row.target):
            if picture.path not in seen:  # a tar has many
                seen.add(picture.path)
                yield picture.path.name if picture.part else picture.ref, picture.path


def layout_for(path: Path, named: str = "") -> str:
    """The layout of `path`, or the one that is named.

    Raises:
        SourceError: nothing is there, or no layout fits.
    """
    if not path.exists():
        raise SourceError(f"'{path}' does not exist")
    if named and named not in layouts():
        raise SourceError(f"no layout '{named}'; there are {', '.join(sorted(layouts()))}")
    layout = named or layout_of(path)
    if not layout:
        raise SourceError(f"'{path}' has no layout of pairs that we know:\n\n{drawings()}")
    return layout


def _item(source: str, picture: Picture, row: Row, licence: str, author: str) -> SourceItem:
    return SourceItem(
        source=source,
        ref=picture.ref,
        group_key=f"{source}:{row.chain or row.target.ref}",
        concept="",  # what is shown nobody has said
        license_spdx=licence,
        author=author,
        path=None if picture.part else picture.path.absolute(),
        part=picture.part,
    )


def _pair(source: str, row: Row) -> GivenPair:
    return GivenPair(
        source=source,
        row=row.at,
        target=row.target.ref,
        contexts=tuple(picture.ref for picture in row.contexts),
        instruction=row.instruction,
        kind=row.kind,
        target_caption=row.target_caption,
    )


def _reasons(skipped: list[Skipped]) -> str:
    """How many rows are none, for what reason, and one of them in full."""
    counts = Counter(one.reason for one in skipped)
    text = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "no rows"
    told = next((one for one in skipped if one.detail), None)
    return text if told is None else f"{text} ({told.ref}: {told.detail})"
