"""Who opted out: HOME/opt-outs.txt, one entry a line.

    # asked for on 2026-11-02
    https://example.org/photos/*
    folder:holiday/beach/12.jpg
    sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

An entry is a picture's name inside of its source, or SOURCE/NAME, with `*`, `?` and `[…]` as in
file names; or the SHA-256 of the original file, wherever it lies. Pictures with such a name are not
planned, those with such bytes are not kept, and `kontext safety sweep` takes both out of what was
made before. The file says who opted out: it is as private as the lists are.
"""

import fnmatch
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kontext.errors import GateError

FILE = "opt-outs.txt"
_SHA256 = re.compile(r"sha256:([0-9a-fA-F]{64})")
_NEVER = re.compile(r"(?!)")


@dataclass(frozen=True, repr=False)
class OptOuts:
    """Names and digests of who opted out."""

    names: tuple[str, ...] = ()
    digests: frozenset[str] = frozenset()  # SHA-256, lower-case hex

    def __len__(self) -> int:
        return len(self.names) + len(self.digests)

    def __call__(self, source: str, ref: str, sha256: str = "") -> bool:
        """Whether a picture is meant: by its name in a source, that with the source's, or bytes."""
        match = _pattern(self.names).match
        return bool(sha256 in self.digests or match(ref) or match(f"{source}/{ref}"))

    @property
    def digest(self) -> str:
        """SHA-256 of all entries, in no order; empty where there are none."""
        text = "\n".join(sorted({*self.names, *self.digests}))
        return hashlib.sha256(text.encode()).hexdigest() if text else ""


@lru_cache(maxsize=4)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, names))) if names else _NEVER


def opt_outs(home: Path | None) -> OptOuts:
    """The entries of a home. Raises GateError where the file cannot be read or an entry is none."""
    path = None if home is None else home / FILE
    if path is None or not path.exists():
        return OptOuts()
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GateError(f"{FILE} is not readable text") from error
    names, digests = [], set()
    for number, line in enumerate(lines, 1):
        entry = line.strip()
        if entry.lower().startswith("sha256:"):
            found = _SHA256.fullmatch(entry)
            if found is None:
                raise GateError(f"{FILE} line {number}: sha256: and 64 hex characters are needed")
            digests.add(found[1].lower())
        elif entry and not entry.startswith("#"):
            names.append(entry)
    return OptOuts(tuple(dict.fromkeys(names)), frozenset(digests))


def add(home: Path, entries: Iterable[str]) -> int:
    """Write entries that are not there yet; how many those were. Raises GateError as `opt_outs`."""
    known = opt_outs(home)
    before = {*known.names, *(f"sha256:{digest}" for digest in known.digests)}
    new = [entry for entry in dict.fromkeys(map(str.strip, entries)) if entry not in before]
    home.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(home / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a+b") as file:
        file.seek(0)
        text = file.read()
        start = "\n" if text and not text.endswith(b"\n") else ""
        file.write((start + "".join(f"{entry}\n" for entry in new)).encode())
    opt_outs(home)
    return len(new)
