"""A plain folder of images, read recursively: bring your own pictures.

    pictures/
      house/house__season=summer.png     group "house", label season = summer
      house/house__season=winter.png     the same group, one label differs: a pair
      tree__color=red.png                in the root the stem names the group: "tree"
      0001.png                           before
      0001__edit=Put a hat on it.png     after, with its instruction (`labelled`)

Every regular file is planned, whatever its name ends in: what is not an image is refused by the
decode guard with a reason. Every other entry (hidden, junk of the system, links that lead out, what
cannot be read) is skipped with one, so nothing disappears silently.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from kontext.data.layouts.base import shown, walk
from kontext.data.sources.base import Planned, Skipped, SourceItem
from kontext.data.sources.labelled import with_instructions
from kontext.errors import SourceError
from schemas.paths import expanded
from schemas.sections.sources import PathSource

ATTRIBUTION = ""  # the recipe names author and licence
WHOLE_PICTURES = True  # every file is one picture


class FolderSource(PathSource):
    """A folder of images, read recursively. Sub-folder = group; `stem__attr=value` sets labels."""

    kind: Literal["folder"] = "folder"
    license_spdx: str = Field("LicenseRef-unknown", title="Licence (SPDX id)")
    author: str = Field("unknown", title="Author")


def plan(config: FolderSource) -> list[SourceItem]:
    """One item per file, in path order. Raises SourceError as `read` does."""
    return read(config).items


def read(config: FolderSource) -> Planned:
    """Every file an item, in path order, and every other entry skipped with its reason.

    Raises:
        SourceError: the folder is missing or holds no files.
    """
    root = expanded(config.path)
    if not root.is_dir():
        raise SourceError(f"image folder '{config.path}' does not exist")
    source = f"folder:{root.resolve().name}"
    items, skipped = [], []
    for path, reason in walk(root):
        if reason:
            skipped.append(Skipped(source, shown(path, root), reason))
        else:
            items.append(_item(source, root, path, config))
    if not items:
        raise SourceError(f"image folder '{config.path}' holds no files")
    names = {item.ref: parse_stem(PurePosixPath(item.ref).stem)[0] for item in items}
    found = with_instructions(items, names, skipped)
    if not found.items:
        told = next(one for one in found.skipped if one.detail)
        raise SourceError(
            f"image folder '{config.path}' holds no picture: {told.ref}: {told.detail}"
        )
    return found


def local_files(config: FolderSource) -> list[tuple[str, Path]]:
    """(name, path) of every file whose contents belong to the identity of what is ingested."""
    root = expanded(config.path)
    files = (path for path, reason in walk(root) if not reason)
    return [(path.relative_to(root).as_posix(), path) for path in files]


def parse_stem(stem: str) -> tuple[str, dict[str, str]]:
    """Split `name__key=value__key=value` into the name and its labels.

    >>> parse_stem("red-house__season=winter__time=night")
    ('red-house', {'season': 'winter', 'time': 'night'})
    """
    name, *parts = stem.split("__")
    labels: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and key:
            labels[key] = value
        else:
            name += "__" + part  # not a label: part of the name
    return name, labels


def _item(source: str, root: Path, path: Path, config: FolderSource) -> SourceItem:
    relative = path.relative_to(root)
    name, labels = parse_stem(path.stem)
    group = relative.parent.as_posix() if relative.parent != Path() else name
    return SourceItem(
        source=source,
        ref=relative.as_posix(),
        group_key=f"{source}:{group}",
        concept=concept_of(name),
        license_spdx=config.license_spdx,
        author=config.author,
        attributes=labels,
        path=path.absolute(),
        series=f"{source}/{relative.parent.as_posix()}",
    )


# Words in names that cameras, phones, downloads and counters give: they do not say what is shown.
_NAMES = """
    img dsc dscn dscf dcim pxl mvimg gopr dji mvi vid pict imag image images e p photo picture pic
    screenshot screen shot scan file frame untitled unnamed download whatsapp signal vlcsnap
    snapshot capture at am pm copy new final wa burst hdr pano input output in out before after
    source target original edited control context result
"""
_NO_WORDS = frozenset(_NAMES.split())
_HEX = re.compile(r"^(?=.*\d)[0-9a-f]{8}[0-9a-f -]*$", re.IGNORECASE)


def concept_of(name: str) -> str:
    """What a file's name says is shown, in words; "" where a camera or a counter chose it."""
    words = " ".join(re.split(r"[\s_-]+", name)).strip()
    letters = {word.lower() for word in re.findall(r"[^\W\d_]+", words)}
    return "" if letters <= _NO_WORDS or _HEX.match(words) else words
