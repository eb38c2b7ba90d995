"""A plain folder of images, read recursively: bring your own pictures.

    pictures/
      house/house__season=summer.png     group "house", label season = summer
      house/house__season=winter.png     the same group, one label differs: a pair
      tree__color=red.png                in the root the stem names the group: "tree"

Every regular file is planned, whatever its name ends in: what is not an image is refused by the
decode guard with a reason, so nothing disappears silently. Hidden files are not looked at.
"""

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from kontext.data.sources.base import SourceItem
from kontext.errors import SourceError
from schemas.paths import expanded
from schemas.sections.sources import SourceConfig

ATTRIBUTION = ""  # the recipe names author and licence


class FolderSource(SourceConfig):
    """A folder of images, read recursively. Sub-folder = group; `stem__attr=value` sets labels."""

    kind: Literal["folder"] = "folder"
    path: str = Field(title="Folder")
    license_spdx: str = Field("LicenseRef-unknown", title="Licence (SPDX id)")
    author: str = Field("unknown", title="Author")

    @field_validator("path")
    @classmethod
    def _a_path(cls, path: str) -> str:
        if "\0" in path:
            raise ValueError("a path cannot hold a NUL character")
        return path


def plan(config: FolderSource) -> list[SourceItem]:
    """One item per file, in path order.

    Raises:
        SourceError: the folder is missing or holds no files.
    """
    root = expanded(config.path)
    if not root.is_dir():
        raise SourceError(f"image folder '{config.path}' does not exist")
    files = listed_files(root)
    if not files:
        raise SourceError(f"image folder '{config.path}' holds no files")
    source = f"folder:{root.resolve().name}"
    return [_item(source, root, path, config) for path in files]


def local_files(config: FolderSource) -> list[tuple[str, Path]]:
    """(name, path) of every file whose contents belong to the identity of what is ingested."""
    root = expanded(config.path)
    return [(path.relative_to(root).as_posix(), path) for path in listed_files(root)]


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


def listed_files(root: Path) -> list[Path]:
    """Regular files below `root`, sorted; symbolic links that lead out of it are left alone.

    Hidden files and folders are left out; a missing folder has none.
    """
    top = root.resolve()
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(folder) / name
            inside = not path.is_symlink() or path.resolve().is_relative_to(top)
            if not name.startswith(".") and path.is_file() and inside:
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _item(source: str, root: Path, path: Path, config: FolderSource) -> SourceItem:
    relative = path.relative_to(root)
    name, labels = parse_stem(path.stem)
    group = relative.parent.as_posix() if relative.parent != Path() else name
    return SourceItem(
        source=source,
        ref=relative.as_posix(),
        group_key=f"{source}:{group}",
        concept=" ".join(re.split(r"[\s_-]+", name)).strip(),
        license_spdx=config.license_spdx,
        author=config.author,
        attributes=labels,
        path=path.absolute(),
    )
