"""What ingest's recipe section points to on disk: image folders, hash lists, installed images.

Their contents belong to the artifact's identity: a picture added to a folder, a new hash list, or
npm's images installed since must not meet a finished manifest and be called "reused".
"""

import hashlib
import hmac
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from kontext.data.layouts.base import LARGEST
from kontext.data.sources.base import Stamp
from kontext.data.sources.fallback import resolve
from kontext.errors import SourceError
from kontext.safety.keys import run_key
from kontext.safety.list_files import lists_digest
from kontext.safety.opt_outs import opt_outs
from schemas.sections.data import IngestConfig

CHANGES_RESULTS = False  # its digests are in the artifact's digest

CACHE = "cache/files.sqlite"
_SAMPLES, _SAMPLE = 64, 1 << 18  # blocks of a large video, and their bytes
_SETTLED_NS = 2_000_000_000  # a file changed since may change again within its clock's tick

_OWN = b"kontext file\0"  # digests of files are in nobody's list
# Digests are kept of refused files too, so names are keyed, and digests are only there under a mask
# that nobody without the home's safety key can make: no list says which files were here.
_TABLE = "sealed"


def fingerprint(config: IngestConfig, home: Path | None = None) -> str:
    """SHA-256 over folders' names and contents, hash lists' bytes and the sources that stand in.

    Every file is read once; under `home` a cache keeps its digest for as long as its size, times
    and inode stay, so that looking again costs one `stat` per file. Packaged art is pinned by
    version and needs no look. A missing folder or list counts as empty: the stage itself refuses it
    with a clear message.

    Raises:
        OSError: a file cannot be read.
        GateError: the home's safety key is gone or no key.
    """
    digest = hashlib.sha256()
    with file_digests(home) as digests:
        for source in config.sources:
            module = import_module(type(source).__module__)
            if hasattr(module, "identity"):
                digest.update(f"{source.kind}\x1f{module.identity(source)}\n".encode())
            if hasattr(module, "local_files"):
                largest = LARGEST if hasattr(module, "WHOLE_PICTURES") else None
                sampled = hasattr(module, "BY_ENDS")
                for name, path in module.local_files(source):
                    found = digests.of(path, largest, sampled=sampled)
                    digest.update(f"{name}\x1f{found}\n".encode())
    digest.update(lists_digest(config.hash_lists, home).encode())
    digest.update(opt_outs(home).digest.encode())
    sources, notes = resolve(config)
    if notes:
        used = [source.model_dump(mode="json") for source in sources]
        digest.update(json.dumps(used, sort_keys=True).encode())
    return digest.hexdigest()


class FileDigests:
    """Digests of files by content; those already known by their stamp are not read again."""

    def __init__(self, database: sqlite3.Connection, key: bytes) -> None:
        """`key` is the home's safety key."""
        self._database, self._key = database, key
        database.execute("PRAGMA secure_delete = ON")
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'digests'").fetchone():
            database.execute("DROP TABLE digests")  # of an earlier kontext, whose rows had no key
            database.execute("VACUUM")
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {_TABLE} (path TEXT PRIMARY KEY, size INTEGER, "
            "mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER, content BLOB NOT NULL)"
        )

    def of(self, path: Path, largest: int | None = None, *, sampled: bool = False) -> str:
        """The file's digest. A rewrite that restores size and mtime still moves the change time.

        A file of more than `largest` bytes is refused unread, so its size says all. Of one that is
        `sampled` and large, its size, its ends and blocks between them are.
        """
        stamp = _stamp(path)
        if largest is not None and stamp[0] > largest:
            return f"{stamp[0]} bytes"
        name = hmac.new(self._key, _OWN + bytes(path.absolute()), hashlib.sha256).hexdigest()
        known = self._database.execute(
            f"SELECT size, mtime_ns, ctime_ns, inode, content FROM {_TABLE} WHERE path = ?", (name,)
        ).fetchone()
        if known is not None and tuple(known[:4]) == stamp:
            return self._masked(known[4], name, stamp).hex()
        with path.open("rb") as file:
            if sampled and stamp[0] > LARGEST:
                found = _of_samples(file, stamp[0])
            else:
                found = hashlib.file_digest(file, lambda: hashlib.sha256(_OWN)).hexdigest()
        if time.time_ns() - max(stamp[1:3]) > _SETTLED_NS and _stamp(path) == stamp:
            sealed = self._masked(bytes.fromhex(found), name, stamp)
            self._database.execute(
                f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?, ?, ?, ?, ?)",
                (name, *stamp, sealed),
            )
        return found

    def _masked(self, digest: bytes, name: str, stamp: Stamp) -> bytes:
        """The digest under the mask of its row, or back from it."""
        mask = hmac.new(self._key, f"{name} {stamp}".encode(), hashlib.sha256).digest()
        return bytes(one ^ other for one, other in zip(digest, mask, strict=True))


def _of_samples(file: BinaryIO, size: int) -> str:
    """SHA-256 of a file's size and of blocks evenly over it, the first and the last among them."""
    found = hashlib.sha256(_OWN + f"{size} bytes\0".encode())
    for number in range(_SAMPLES):
        file.seek((size - _SAMPLE) * number // (_SAMPLES - 1))
        found.update(file.read(_SAMPLE))
    return found.hexdigest()


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@contextmanager
def file_digests(home: Path | None) -> Iterator[FileDigests]:
    """The cache under `home`, or one that is forgotten."""
    where, key = ":memory:", b"forgotten"
    if home is not None:
        (home / CACHE).parent.mkdir(parents=True, exist_ok=True)
        where, key = str(home / CACHE), run_key(home)
    # autocommit: nothing is locked while a file is read, and a killed look keeps what it read
    try:
        with closing(sqlite3.connect(where, timeout=60, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")  # it can always be read again
            yield FileDigests(database, key)
    except sqlite3.Error as error:  # a full disk, for example
        raise SourceError(f"cannot keep file digests in {where}: {error}") from error
