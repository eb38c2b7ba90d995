"""The interface of an object store, and what every kind of store needs.

Keys are relative POSIX paths. A put is atomic: readers see the old object or the whole new one.
`if_absent` puts have exactly one winner, also between machines; that is what manifests rely on.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kontext.errors import ObjectNotFound, StoreError


@dataclass(frozen=True)
class ObjectInfo:
    """What a store knows about an object without reading it."""

    key: str
    size: int  # bytes
    etag: str  # changes whenever the bytes change
    modified: datetime  # UTC


class ObjectStore(ABC):
    """A flat map from key to bytes. Every method raises StoreError when the store fails."""

    url: str  # absolute; `open_store(url)` in another process gives the same store

    @abstractmethod
    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The object's bytes, or `length` of them from byte `start`. Raises ObjectNotFound."""

    @abstractmethod
    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> str:
        """Store bytes, return the etag. With `if_absent`, raises ObjectExists if one is there."""

    @abstractmethod
    def put_file(self, key: str, path: Path, *, if_absent: bool = False) -> str:
        """Store a local file (large ones in parts), return the etag. Raises like `put`."""

    @abstractmethod
    def replace_if(self, key: str, data: bytes, etag: str | None) -> str:
        """Store bytes if the object still has `etag` (None: if there is none), return the new etag.

        Raises ObjectExists when somebody else was faster.
        """

    @abstractmethod
    def info(self, key: str) -> ObjectInfo | None:
        """Size, etag and time of an object, or None."""

    @abstractmethod
    def list_info(self, prefix: str = "") -> list[ObjectInfo]:
        """Every object whose key starts with `prefix`, sorted by key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object; removing nothing is fine."""

    @abstractmethod
    def copy(self, key: str, to: str) -> None:
        """Give an object's bytes another name too, without a byte passing through here.

        Atomic, replaces what has that name. Raises ObjectNotFound.
        """

    @abstractmethod
    def _fetch(self, key: str, path: Path) -> None:
        """Write the object to a file that nobody else reads or writes."""

    def download(self, key: str, path: Path) -> None:
        """Write the object to a local file, atomically. Raises ObjectNotFound."""
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(key, partial)
            partial.replace(path)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)

    def stream(
        self, key: str, start: int = 0, length: int | None = None, part: int = 8 << 20
    ) -> Iterator[bytes]:
        """The bytes `get` would give, at most `part` at a time, so that memory stays flat."""
        end = self.size(key)
        if length is not None:
            end = min(end, start + length)
        for offset in range(start, end, part):
            yield self.get(key, offset, min(part, end - offset))

    def clear_unfinished(self, before: datetime, *, dry_run: bool) -> int:
        """Discard writes that were cut off before that time; how many there are (UTC)."""
        return 0

    def local_path(self, key: str) -> Path | None:
        """Where the object lies on this disk (read only), if it does."""
        return None

    @property
    def supports_conditional_puts(self) -> bool:
        """Whether `if_absent` and `replace_if` keep their promise here."""
        return True

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        return self.info(key) is not None

    def size(self, key: str) -> int:
        """Bytes of an object. Raises ObjectNotFound."""
        return self._known(key).size

    def list(self, prefix: str = "") -> list[str]:
        """Keys that start with `prefix`, sorted."""
        return [info.key for info in self.list_info(prefix)]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Bytes and the etag that belongs to them. Raises ObjectNotFound."""
        for _ in range(10):
            before, data, after = self._known(key), self.get(key), self._known(key)
            if after.etag == before.etag:
                return data, before.etag
        raise StoreError(f"object '{key}' in {self.url} keeps changing while it is read")

    def _known(self, key: str) -> ObjectInfo:
        found = self.info(key)
        if found is None:
            raise ObjectNotFound(f"no object '{key}' in {self.url}")
        return found


def check_key(key: str) -> str:
    """Return the key if it is a clean relative path, else raise StoreError."""
    parts = key.split("/")
    if not key or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise StoreError(f"'{key}' is not a valid object key")
    return key


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(path: Path) -> None:
    """Make a rename or link in this folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
