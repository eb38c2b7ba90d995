"""What the fingerprint has read of source files, kept from one process to the next.

An entry is found by the SHA-256 of a file's bytes, so it is true of nothing else, and by that of
the code that reads them. The file lies where this Python keeps what it compiled of the same sources
(`kontext/__pycache__`), one for each version of Python, and is trusted like that: it says the
SHA-256 of its own contents, which tells damage and not intent. Where Python may write nothing there
(`-B`, an installation of somebody else), each process reads for itself.
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import cache_from_source
from pathlib import Path
from uuid import uuid4

CHANGES_RESULTS = False  # gives what reading the same bytes again would give

_BESIDE = Path(__file__).parents[1] / "fingerprints.py"  # no file: only its place is asked for
FILE = Path(cache_from_source(str(_BESIDE), optimization="")).with_suffix(".json")
_MOST = 4_000  # entries; a checkout that changes a lot begins anew then


@dataclass(frozen=True)
class Read:
    """What was read of one file's syntax tree."""

    hash: str
    imports: tuple[str, ...]  # dotted names; some name a module's attribute
    patterns: tuple[str, ...]  # of files that the module reads at run time, from its folder
    changes_results: bool | None  # as the module declares; None where it declares nothing


class KnownSources:
    """Entries in a JSON file.

    Args:
        file: where they are; its folder is not made.
        reader: digest of the code that reads sources: entries of another one are not used.
    """

    def __init__(self, file: Path, reader: str) -> None:
        self._file, self._reader, self._new = file, reader, False
        self._entries: dict[str, Read] | None = None

    def get(self, digest: str) -> Read | None:
        """What was read of a file of this digest; None where none was."""
        if self._entries is None:
            self._entries = self._load()
        return self._entries.get(digest)

    def put(self, digest: str, read: Read) -> None:
        """Keep what was read; `save` writes it."""
        entries = self._load() if self._entries is None else self._entries
        self._entries = {**({} if len(entries) >= _MOST else entries), digest: read}
        self._new = True

    def save(self) -> None:
        """Write the file if there is something new, and Python itself might write there."""
        if not self._new or sys.dont_write_bytecode:
            return
        self._new = False
        entries = {digest: asdict(read) for digest, read in (self._entries or {}).items()}
        text = json.dumps({"reader": self._reader, "entries": entries})
        partial = self._file.with_suffix(f".{uuid4().hex}")  # other machines may share the folder
        with suppress(OSError):  # the next process reads for itself, as this one did
            try:
                partial.write_text(f"{_sha256(text)}\n{text}")
                partial.replace(self._file)
            finally:
                partial.unlink(missing_ok=True)

    def _load(self) -> dict[str, Read]:
        try:
            said, _, text = self._file.read_text().partition("\n")
        except (OSError, ValueError):  # there is none, or it is no text
            return {}
        if said != _sha256(text):
            return {}
        found = json.loads(text)
        if found["reader"] != self._reader:
            return {}
        return {digest: _read(**entry) for digest, entry in found["entries"].items()}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(hash: str, imports: list[str], patterns: list[str], changes_results: bool | None) -> Read:
    return Read(hash, tuple(imports), tuple(patterns), changes_results)
