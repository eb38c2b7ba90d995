"""Fetched pictures that the hash gate has passed, so that nobody is asked for them twice.

By address: a file of the digest of the bytes; by digest: the bytes. Addresses are keyed digests. A
picture that a later hash list stops is dropped.
"""

import hashlib
import os
import re
import secrets
from pathlib import Path

from kontext.safety.ids import subject_hmac

FOLDER = "cache/web"  # in the home


class WebCache:
    """The cache under a home."""

    def __init__(self, home: Path, key: bytes) -> None:
        self._folder, self._key = home / FOLDER, key

    def get(self, url: str) -> bytes | None:
        """The bytes that the address gave; None where they are not there, or damaged."""
        try:
            digest = self._name(url).read_text()
            if not re.fullmatch("[0-9a-f]{64}", digest):
                return None
            data = self._bytes(digest).read_bytes()
        except (OSError, UnicodeDecodeError):
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def put(self, url: str, data: bytes) -> None:
        """Keep what an address gave, once the hash gate has passed it."""
        digest = hashlib.sha256(data).hexdigest()
        _write(self._bytes(digest), data)
        _write(self._name(url), digest.encode())

    def drop(self, url: str, digest: str) -> None:
        """Forget an address and its bytes, by their SHA-256."""
        self._bytes(digest).unlink(missing_ok=True)
        self._name(url).unlink(missing_ok=True)

    def _name(self, url: str) -> Path:
        name = subject_hmac(url, self._key)
        return self._folder / "addresses" / name[:2] / name

    def _bytes(self, digest: str) -> Path:
        return self._folder / "bytes" / digest[:2] / digest


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
