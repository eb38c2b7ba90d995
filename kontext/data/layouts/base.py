"""What every layout gives: rows of (context pictures, target picture, instruction)."""

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

IMAGE_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".ppm",
        ".pgm",
        ".pbm",
    ]
)
JUNK_FOLDERS = frozenset({"@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"})
JUNK_FILES = frozenset({"Thumbs.db", "desktop.ini"})
LARGEST = 64 << 20  # bytes of a picture; what is larger is refused unread


class Part(Protocol):
    """Bytes inside a larger file."""

    def read(self, limit: int) -> bytes:
        """The bytes. Raises SourceError where there are none, or more than `limit`."""


@dataclass(frozen=True)
class Picture:
    """Where a picture is: a file, or a part of one. `ref` is unique inside the source."""

    ref: str
    path: Path
    part: Part | None = None


@dataclass(frozen=True)
class Row:
    """A pair that somebody made.

    Without contexts the instruction is a caption, and the pair is text-to-image. `contexts` has the
    picture that is edited first, then references. Rows of one `chain` are held out together.
    """

    at: str  # file and row it stands in
    target: Picture
    contexts: tuple[Picture, ...]
    instruction: str  # as given, byte for byte
    chain: str = ""
    kind: str = ""  # what the set calls this kind of edit
    target_caption: str = ""
    licence: str = ""  # of this row, where it has one (SPDX id)


@dataclass(frozen=True)
class Problem:
    """A row or file that is no pair: `reason` is one word for counting, `detail` one line.

    `pictures` are files that would have been in its pair; where no other pair has them, they are
    left out with it.
    """

    at: str
    reason: str
    detail: str = ""
    pictures: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A file that pairs or their words were read from: a table, a tar, a text."""

    path: Path


def is_image(path: Path) -> bool:
    """Whether a file's name says that it is a picture."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def walk(root: Path, top: Path | None = None) -> Iterator[tuple[Path, str]]:
    """Every entry below `root` in path order, with "" or the reason why it is not read.

    Reasons: hidden, junk, link_outside, link_loop, link_broken, not_regular, denied,
    undecodable_name, path_too_long. Folders that are links are not entered. Links may lead
    anywhere inside of `top`, which is `root` where it is not given.
    """
    top = (top or root).resolve()
    waiting = [iter(_entries(root, top))]  # not by recursion: folders lie deeper than it goes
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            continue
        path, reason, is_folder = entry
        if is_folder:
            waiting.append(iter(_entries(path, top)))
        else:
            yield path, reason


def _entries(folder: Path, top: Path) -> list[tuple[Path, str, bool]]:
    """(path, why it is not read, whether it is a folder to enter) of all that is in a folder."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        too_long = error.errno == errno.ENAMETOOLONG
        return [(folder, "path_too_long" if too_long else "denied", False)]
    listed = []
    for entry in entries:
        path = Path(entry.path)
        reason = _unread(entry, path, top)
        listed.append((path, reason, not reason and entry.is_dir(follow_symlinks=False)))
    return listed


def _unread(entry: os.DirEntry[str], path: Path, top: Path) -> str:
    """Why an entry is not read, or ""."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.name in JUNK_FOLDERS or entry.name in JUNK_FILES:
        return "junk"
    if not is_text(entry.name):
        return "undecodable_name"
    if entry.is_symlink():
        return _unread_link(path, top)
    if not (entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)):
        return "not_regular"
    return "" if os.access(path, os.R_OK) else "denied"


def _unread_link(path: Path, top: Path) -> str:
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        return "link_broken"
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        return "link_loop"
    if not real.is_relative_to(top):
        return "link_outside"
    if not real.is_file():
        return "not_regular"
    return "" if os.access(real, os.R_OK) else "denied"


def is_text(name: str) -> bool:
    """Whether a name can be stored: names in another encoding come with surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: Path, root: Path) -> str:
    """`path` inside `root`, printable whatever bytes its name has."""
    name = path.relative_to(root).as_posix()
    return name.encode("utf-8", "backslashreplace").decode()


def parsed_json(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError for none, and for one that cannot be kept.

    A parser's limits end no ingest, and half of a surrogate pair, which JSON can write, can be
    stored nowhere.
    """
    try:
        found = json.loads(text)
        if isinstance(text, bytes) or "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a character") from error
    return found
