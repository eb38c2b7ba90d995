"""`file://` stores: a folder of read-only files, written by temporary file, fsync and link."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from kontext.errors import ObjectExists, ObjectNotFound, StoreError
from kontext.store.objects.object_store import ObjectInfo, ObjectStore, check_key, fsync_folder

_PRIVATE = ".kontext-tmp"  # unfinished writes and the lock; never listed


class LocalStore(ObjectStore):
    """Objects as files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()
        self.url = f"file://{self.root}"
        self._temporary = self.root / _PRIVATE
        with self._errors():
            self._temporary.mkdir(parents=True, exist_ok=True)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """See `ObjectStore`."""
        with self._errors(key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read() if length is None else file.read(length)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> str:
        """See `ObjectStore`."""
        return self._write(key, lambda file: file.write(data), if_absent)

    def put_file(self, key: str, path: Path, *, if_absent: bool = False) -> str:
        """See `ObjectStore`."""
        with self._errors(), path.open("rb") as source:
            return self._write(
                key, lambda file: shutil.copyfileobj(source, file, 1 << 20), if_absent
            )

    def replace_if(self, key: str, data: bytes, etag: str | None) -> str:
        """See `ObjectStore`."""
        if etag is None:
            return self.put(key, data, if_absent=True)
        with FileLock(self._temporary / "replace.lock"):
            found = self.info(key)
            if found is None or found.etag != etag:
                raise ObjectExists(f"'{key}' in {self.url} was changed by somebody else")
            return self.put(key, data)

    def info(self, key: str) -> ObjectInfo | None:
        """See `ObjectStore`."""
        path = self._path(key)
        if not path.is_file():
            return None
        with self._errors(key):
            return _describe(key, path.stat())

    def list_info(self, prefix: str = "") -> list[ObjectInfo]:
        """See `ObjectStore`."""
        base = self.root / prefix.rpartition("/")[0]
        paths = base.rglob("*") if base.is_dir() else ()
        keys = {path.relative_to(self.root).as_posix(): path for path in paths}
        return [
            _describe(key, path.stat())
            for key, path in sorted(keys.items())
            if key.startswith(prefix) and not key.startswith(_PRIVATE) and path.is_file()
        ]

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError:  # not empty, or already gone
                break

    def copy(self, key: str, to: str) -> None:
        """See `ObjectStore`. A hard link; on a file system without them, a copy."""
        linked = self._temporary / uuid.uuid4().hex
        try:
            with self._errors(key):
                os.link(self._path(key), linked)
        except ObjectNotFound:
            raise
        except StoreError:
            self.put_file(to, self._path(key))
            return
        try:
            self._publish(linked, self._path(to), to, if_absent=False)
        finally:
            linked.unlink(missing_ok=True)  # rename does nothing where both are one file

    def clear_unfinished(self, before: datetime, *, dry_run: bool) -> int:
        """See `ObjectStore`."""
        old = [
            path
            for path in self._temporary.iterdir()
            if path.suffix != ".lock" and path.stat().st_mtime < before.timestamp()
        ]
        for path in () if dry_run else old:
            path.unlink(missing_ok=True)
        return len(old)

    def local_path(self, key: str) -> Path | None:
        """See `ObjectStore`."""
        path = self._path(key)
        return path if path.is_file() else None

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _fetch(self, key: str, path: Path) -> None:
        with self._errors(key):
            shutil.copyfile(self._path(key), path)

    def _write(self, key: str, fill: Callable[[BinaryIO], object], if_absent: bool) -> str:
        target = self._path(key)
        if if_absent and target.exists():
            raise ObjectExists(f"'{key}' is already in {self.url}")
        descriptor, name = tempfile.mkstemp(dir=self._temporary)
        partial = Path(name)
        try:
            with self._errors(), os.fdopen(descriptor, "wb") as file:
                fill(file)
                file.flush()
                os.fchmod(file.fileno(), 0o444)
                os.fsync(file.fileno())
            etag = _describe(key, partial.stat()).etag
            self._publish(partial, target, key, if_absent)
            return etag
        finally:
            partial.unlink(missing_ok=True)

    def _publish(self, partial: Path, target: Path, key: str, if_absent: bool) -> None:
        for _ in range(20):  # a concurrent delete may remove the empty folder under us
            with self._errors():
                target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if if_absent:
                    os.link(partial, target)  # fails if the name exists: one winner
                else:
                    partial.replace(target)
                fsync_folder(target.parent)
                return
            except FileExistsError as error:
                raise ObjectExists(f"'{key}' is already in {self.url}") from error
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"store {self.url}: {error.strerror} ('{key}')") from error
        raise StoreError(f"store {self.url}: cannot create the folder of '{key}'")

    @contextmanager
    def _errors(self, key: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if key:
                raise ObjectNotFound(f"no object '{key}' in {self.url}") from error
            raise StoreError(f"store {self.url}: {error}") from error
        except OSError as error:
            raise StoreError(f"store {self.url}: {error.strerror or error}") from error


def _describe(key: str, stat: os.stat_result) -> ObjectInfo:
    # every write is a new inode, and link and rename keep inode and time
    etag = f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
    return ObjectInfo(key, stat.st_size, etag, datetime.fromtimestamp(stat.st_mtime, UTC))
