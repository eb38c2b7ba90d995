"""Where the files are that a table names: beside it, above it, in a folder, or in a tar."""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from kontext.data.layouts.base import Picture, is_image, shown, walk
from kontext.data.layouts.tar_files import Entry, entries
from kontext.errors import SourceError

# where sets keep pictures beside the folder of their tables, or beside a table
_FOLDERS = ("images", "image", "editing")


class Tars:
    """The pictures in the tars of the set at `root`; looked for once, and only if asked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._taken: dict[Path, set[str]] = {}

    def named(self, name: str) -> list[tuple[Path, Entry]]:
        """Tar and member of every picture of that name, or whose name without its first folder."""
        found = self._members.get(name, [])
        return [one for one in found if one[1].name == name] or found

    def take(self, tar: Path, entry: Entry) -> None:
        """A row has the picture."""
        self._taken.setdefault(tar, set()).add(entry.name)

    def opened(self) -> list[Path]:
        """The tars of which rows have pictures."""
        return sorted(self._taken)

    def left(self) -> Iterator[tuple[Path, Entry]]:
        """Of these, the members that no row has."""
        for tar in self.opened():
            for entry in entries(tar):
                if entry.reason or entry.name not in self._taken[tar]:
                    yield tar, entry

    @cached_property
    def _members(self) -> dict[str, list[tuple[Path, Entry]]]:
        """Pictures in the tars of the set, by their names and by these without the first folder."""
        found: dict[str, list[tuple[Path, Entry]]] = {}
        for tar, reason in walk(self._root):
            if reason or tar.suffix.lower() != ".tar":
                continue
            try:
                every = [one for one in entries(tar) if not one.reason]
            except SourceError:
                continue  # the tar is not readable: what is in it is missing, and said row by row
            for entry in every:
                path = PurePosixPath(entry.name)
                if is_image(Path(entry.name)):
                    for name in {path.as_posix(), PurePosixPath(*path.parts[1:]).as_posix()}:
                        found.setdefault(name, []).append((tar, entry))
        return found


class SetFiles:
    """The files of the set at `root` that a `table` in it may name; never any outside."""

    def __init__(self, table: Path, root: Path, tars: Tars) -> None:
        above = [one for one in table.parent.parents if one.is_relative_to(root)]
        places = list(dict.fromkeys((table.parent, root, *above)))
        inside = [place / name for place in places for name in _FOLDERS]
        self._root, self._top, self._tars = root, root.resolve(), tars
        self._places = [*places, *(place for place in inside if place.is_dir())]

    def picture(self, name: str) -> Picture | str:
        """The picture of that name, or a reject reason."""
        names = (name, name.replace("\\", "/")) if "\\" in name else (name,)  # of Windows
        for path in (place / one for one in names for place in self._places):
            try:
                real = path.resolve()
                if not real.is_relative_to(self._top):
                    return "picture_outside"
                if path.is_file():
                    return Picture(real.relative_to(self._top).as_posix(), path)
            except (OSError, ValueError, RuntimeError):  # a name that no file can have, a loop
                return "picture_missing"
        return self._packed(name)

    def _packed(self, name: str) -> Picture | str:
        """A member of a tar of the set: by its whole name, or by the end of it."""
        wanted = PurePosixPath(re.sub(r"^(?:\./)+", "", name)).as_posix()
        found = self._tars.named(wanted)
        if len(found) > 1:
            return "same_name"  # which of them is meant nobody can say
        if not found:
            return "picture_missing"
        tar, entry = found[0]
        self._tars.take(tar, entry)
        return Picture(f"{shown(tar, self._root)}:{entry.name}", tar.absolute(), entry.member)
