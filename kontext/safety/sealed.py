"""Hash lists that lie encrypted on disk: those that were fetched from exchanges.

    HOME/hash-lists/NAME.age   the list as CSV (see `kontext.safety.hashes`), encrypted by age
    HOME/lists.key             the age identity that opens them, mode 0600, made on first use

The key is never written to a store. Nodes that work for one run need copies of both.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kontext.errors import GateError
from kontext.safety.secret_files import refuse_shared, write_once

KEY_FILE, SUFFIX = "lists.key", ".age"


def read(path: Path, home: Path | None) -> str:
    """The text of an encrypted list.

    Raises:
        GateError: the key is missing, readable by others or another one; the file is damaged.
    """
    identity = _identity(home, path.name)
    try:
        return bytes(_pyrage().decrypt(path.read_bytes(), [identity])).decode("utf-8")
    except OSError as error:
        raise GateError(f"hash list {path.name} cannot be read: {error.strerror}") from error
    except (_pyrage().DecryptError, UnicodeDecodeError):
        raise GateError(
            f"hash list {path.name} is damaged, or {KEY_FILE} is not the key that it was written "
            "with: restore it, or fetch it again with `kontext safety fetch --full`"
        ) from None


def write(path: Path, text: str, home: Path) -> None:
    """Replace an encrypted list, whole or not at all, with mode 0600. Raises GateError, OSError."""
    if not (home / KEY_FILE).exists():
        _make_key(home)
    recipient = _identity(home, path.name).to_public()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # a draft is no list: its suffix is none of theirs
    draft = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_pyrage().encrypt(text.encode(), [recipient]))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def rows(text: str) -> Iterable[list[str]]:
    """Type, value and whatever else a fetched list's rows have, without its header."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    next(lines, "")  # the names of the columns
    return (line.split(",") for line in lines)


def digest(text: str) -> str:
    """SHA-256 of what a fetched list stops: of its hashes, not of when it was fetched."""
    found = hashlib.sha256()
    for entry in sorted({f"{kind}:{value}\n" for kind, value, *_ in rows(text)}):
        found.update(entry.encode())
    return found.hexdigest()


def _identity(home: Path | None, name: str) -> Any:
    path = Path(KEY_FILE) if home is None else home / KEY_FILE
    if home is None or not path.exists():
        raise GateError(
            f"hash list {name} is encrypted and {path} is gone: restore it from the backup, or "
            "delete the list and fetch it again"
        )
    refuse_shared(path)
    try:
        return _pyrage().x25519.Identity.from_str(path.read_text(errors="replace").strip())
    except _pyrage().IdentityError:
        raise GateError(f"{path} is no age identity (AGE-SECRET-KEY-…)") from None


def _make_key(home: Path) -> None:
    """A new key, whole or not at all; the first writer wins."""
    path = home / KEY_FILE
    if any((home / "hash-lists").rglob(f"*{SUFFIX}")):
        raise GateError(
            f"{path} is gone, but hash lists were encrypted with it: restore it from the backup, "
            f"or delete HOME/hash-lists/*{SUFFIX} and fetch them again"
        )
    write_once(path, f"{_pyrage().x25519.Identity.generate()}\n")


def _pyrage() -> Any:
    try:
        import pyrage
    except ModuleNotFoundError:
        raise GateError(
            "encrypted hash lists need pyrage: pip install 'kontext[exchanges]'"
        ) from None
    return pyrage
