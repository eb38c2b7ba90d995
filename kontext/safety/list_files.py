"""Which hash lists are in force. The gate reads them, and what it has passed is known by them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from kontext.safety import sealed
from schemas.paths import file_or_in_home

STANDING, SUFFIXES = "hash-lists", (".csv", ".jsonl", sealed.SUFFIX)


def list_files(named: Sequence[str], home: Path | None) -> tuple[Path, ...]:
    """The list files in force: those named, in their order, and then all of `home/hash-lists`.

    Every ingest, edit and import is matched against them. Relative names are tried in the home too;
    one that is nowhere has no file here, which the gate refuses.
    """
    folder = None if home is None else home / STANDING
    # at any depth and of any case: a list that is put there and not matched would be no error
    kept = sorted(folder.rglob("*")) if folder is not None and folder.is_dir() else []
    found = [path for name in named if (path := file_or_in_home(name, home))]
    found += [path.resolve() for path in kept if _is_list(path)]
    return tuple(dict.fromkeys(found))


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def lists_digest(named: Sequence[str], home: Path | None) -> str:
    """SHA-256 of all lists in force: another list may stop what these let in.

    A fetched list counts by its hashes: one that has not changed since is the same one.

    Raises:
        GateError: a fetched list or its key cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(list_files(named, home)):
        if path.suffix.lower() == sealed.SUFFIX:
            digest.update(bytes.fromhex(sealed.digest(sealed.read(path, home))))
        else:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
