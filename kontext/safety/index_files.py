"""Indexes of long hash lists, kept on disk: built once, and mapped by every process that looks up.

    HOME/hash-lists/.index/<digest>/*.npy   the arrays of kontext.safety.multi_index
    HOME/hash-lists/.index/<digest>/whole.json   their SHA-256; written last

They hold the lists' hashes, so they are as secret as the lists and lie beside them: folders have
mode 0700, files 0600. The name is the digest of the hashes: another version of a list has another
index. Those that nobody has used for a month go when one is built.

Lists that are encrypted have their index in memory (/dev/shm) alone, under a name of the home's.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from kontext.safety.multi_index import Bytes, bands_for, build
from kontext.store.objects import sha256_file

CHANGES_RESULTS = False  # what is kept is what would be built

Arrays = dict[str, NDArray[Any]]

_LOG = logging.getLogger("kontext.safety")
_NAMES = ("rows", "ids", "starts")
_WHOLE = "whole.json"
_UNUSED_DAYS = 30
_MEMORY, _ENTRY = Path("/dev/shm"), 123  # bytes that an entry takes


def folder_in(home: Path) -> Path:
    """Where a home keeps its indexes."""
    return home / "hash-lists" / ".index"


def memory_folder(home: Path, entries: int) -> Path | None:
    """Where a home keeps the index of lists that no disk may hold; None where it has no room."""
    name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:16]
    room = shutil.disk_usage(_MEMORY).free if os.access(_MEMORY, os.W_OK) else 0
    return _MEMORY / f"kontext-{os.getuid()}-{name}" if room > 2 * _ENTRY * entries else None


def opened(hashes: Bytes, distance: int, folder: Path) -> Arrays:
    """The index of `hashes` [N, 32], mapped from its files, which are made where there are none.

    What is damaged is made again.

    Raises:
        OSError: the folder cannot be written.
    """
    digest = hashlib.sha256(repr(bands_for(len(hashes), distance)).encode())
    digest.update(np.ascontiguousarray(hashes).data)
    name = digest.hexdigest()
    _private(folder)
    place = folder / name
    with FileLock(folder / f"{name}.lock", mode=0o600):  # one builds it, others wait for that
        found = _read(place)
        if found is None:
            _clean(folder)
            _write(build(hashes, distance), place)
            found = _read(place)
    if found is None:
        raise OSError(f"{place} cannot be read back")
    os.utime(place)
    return found


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)  # fails where it is somebody else's


def _write(arrays: Arrays, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    draft = Path(mkdtemp(prefix="draft-", dir=place.parent))  # has mode 0700
    try:
        for name in _NAMES:
            path = draft / f"{name}.npy"
            path.touch(0o600)
            np.save(path, arrays[name])
        digests = {name: sha256_file(draft / f"{name}.npy") for name in _NAMES}
        (draft / _WHOLE).touch(0o600)
        (draft / _WHOLE).write_text(json.dumps(digests))
        draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _read(place: Path) -> Arrays | None:
    """The arrays; None where they are not there as they were written."""
    try:
        digests = json.loads((place / _WHOLE).read_text())
        files = {name: place / f"{name}.npy" for name in _NAMES}
        # a damaged index would find less, and nobody would know
        if any(sha256_file(path) != digests[name] for name, path in files.items()):
            _LOG.warning("%s is damaged and is built again", place)
            return None
        return {name: np.load(path, mmap_mode="r") for name, path in files.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _clean(folder: Path) -> None:
    limit = time.time() - _UNUSED_DAYS * 86_400
    for place in folder.iterdir():
        if place.is_dir() and place.stat().st_mtime < limit:
            shutil.rmtree(place, ignore_errors=True)
