"""The secret key of an installation. It keys the ids in records, and signs the ledger.

    HOME/safety.key          64 hex characters, mode 0600, made on first use
    HOME/safety.keys/*.key   keys of before, or of other homes that write to the same store: with
                             them the ledger is read, never written

Two machines that must write equal records share the file.
"""

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from kontext.errors import GateError
from kontext.safety.secret_files import refuse_shared, write_once
from kontext.safety.witness import any_written

KEY_FILE = "safety.key"
OTHER_KEYS = "safety.keys"
HEADS = "ledger-heads"  # copies of what the ledger has committed; see kontext.safety.ledger
_FEWEST_BYTES = 12  # different ones: of 32 random bytes fewer are there once in 10^12 keys


def run_key(home: Path) -> bytes:
    """The key of a home: 32 bytes, made on first use.

    Raises:
        GateError: the file is not 64 hex characters, was not drawn at random, or others may read
            it; or it is gone although decisions were signed with it.
    """
    path = home / KEY_FILE
    if not path.exists():
        _make(home, path)
    return _read(path)


def key_id(key: bytes) -> str:
    """What records call a key: 16 hex characters that tell nothing about it."""
    return derived(key, b"id").hex()[:16]


def signing_key(key: bytes) -> bytes:
    """The key that signs the ledger, so that no id in a record is ever a signature too."""
    return derived(key, b"ledger")


def known_keys(home: Path) -> dict[str, bytes]:
    """Key id -> key, of this home's key and of `safety.keys`; none is made.

    Raises:
        GateError: as `run_key`, for each of them.
    """
    paths = [home / KEY_FILE, *sorted((home / OTHER_KEYS).glob("*.key"))]
    keys = [_read(path) for path in paths if path.exists()]
    return {key_id(key): key for key in keys}


def derived(key: bytes, purpose: bytes) -> bytes:
    """A key for one purpose alone: 32 bytes."""
    return hmac.new(key, b"kontext safety " + purpose, hashlib.sha256).digest()


def _make(home: Path, path: Path) -> None:
    """A new key, whole or not at all; the first writer wins."""
    signed = any_written(home) or any((home / HEADS).glob("*/*/seq/*.json"))
    if signed and not path.exists():  # asked again: another may have made it and signed meanwhile
        raise GateError(
            f"{path} is gone, but decisions were signed with it: restore it from the backup, or "
            "start a new ledger with `kontext safety restart`"
        )
    write_once(path, secrets.token_hex(32))


def _read(path: Path) -> bytes:
    text = path.read_text(errors="replace").strip()
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise GateError(f"{path} is not a safety key (64 hex characters)")
    key = bytes.fromhex(text)
    if len(set(key)) < _FEWEST_BYTES:
        raise GateError(
            f"{path} is no safety key: it was not drawn at random (`openssl rand -hex 32`)"
        )
    refuse_shared(path)
    return key
