"""What an edit started from: exposure that rises over several edits is judged against the first.

Two things know where a picture comes from. A *token* in a saved edit says which exposure its chain
began with, signed by the home's key and tied to the picture's perceptual hash. It can be taken
away. So the home also keeps the results of the last days, `HOME/edits.sqlite`: a keyed HMAC of the
pixels, and the perceptual hash (PDQ), sealed with the key. A picture that is one of them, or near
one in any of its 8 orientations, has that one's beginning. Neither can loosen a rule: of all
beginnings that are found, the lowest counts.

What escapes: a result whose token was taken away and that was cropped by a tenth or turned by some
degrees, so that PDQ does not know it; one edited by another home that has other keys; one older
than the days that are kept. `docs/safety.md` says so.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
import os
import secrets
import sqlite3
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kontext.errors import GateError
from kontext.safety.keys import derived
from kontext.safety.pdq import MAX_DISTANCE, distances

CHANGES_RESULTS = False  # judges what users edit; no stage does

FILE = "edits.sqlite"
UNKNOWN = math.inf  # the exposure that a picture of no known chain began with
DAY = 86_400.0
_SEALED = struct.Struct("<32sf")  # PDQ hash, exposure
Hashes = NDArray[np.uint8]  # [8 N, 32], one for each orientation


class Chains:
    """The results of a home's last edits. Made at the first one."""

    def __init__(self, home: Path, key: bytes, days: float) -> None:
        """Keep results for `days`."""
        self._path, self._days = home / FILE, days
        self._seal, self._sign = derived(key, b"edits seal"), derived(key, b"edits")

    @property
    def empty(self) -> bool:
        """Whether no result was ever kept."""
        return not self._path.exists()

    def began_with(self, pixel_id: str, hashes: Hashes) -> float:
        """The lowest exposure that a chain with this picture, or one near it, began with.

        Args:
            hashes: PDQ of the picture in its 8 orientations, and of what is inside of its borders.

        Raises:
            GateError: what is kept was changed, or cannot be read.
        """
        if self.empty:
            return UNKNOWN
        own = self._subject(pixel_id)
        found, kept, began = [UNKNOWN], [], []
        for subject, nonce, sealed, signature in self._rows():
            if not hmac.compare_digest(signature, self._mac(subject, nonce, sealed)):
                raise GateError(f"{self._path} was changed: move it away to begin anew")
            pdq, exposure = _SEALED.unpack(self._sealed(nonce, sealed))
            kept.append(pdq)
            began.append(exposure)
            if subject == own:
                found.append(exposure)
        if kept:
            bank = np.frombuffer(b"".join(kept), np.uint8).reshape(-1, 32)
            near = np.zeros(len(bank), bool)
            for one in hashes:
                near |= distances(np.broadcast_to(one, bank.shape), bank) <= MAX_DISTANCE
            found += np.array(began)[near].tolist()
        return float(min(found))

    def remember(self, results: Iterable[tuple[str, bytes, float]]) -> None:
        """Keep results: pixel id, PDQ hash and the exposure that their chain began with.

        Raises:
            GateError: they cannot be written.
        """
        now, rows = time.time(), []
        for pixel_id, pdq, exposure in results:
            subject, nonce = self._subject(pixel_id), secrets.token_bytes(16)
            sealed = self._sealed(nonce, _SEALED.pack(pdq, exposure))
            rows.append((now, subject, nonce, sealed, self._mac(subject, nonce, sealed)))
        try:
            with closing(self._open()) as database, database:
                database.execute("DELETE FROM results WHERE made_at < ?", (now - self._days * DAY,))
                database.executemany("INSERT INTO results VALUES (?, ?, ?, ?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            raise GateError(f"{self._path} cannot be written: {error}") from error

    def _rows(self) -> list[tuple[bytes, bytes, bytes, bytes]]:
        since = time.time() - self._days * DAY
        asked = "SELECT subject, nonce, sealed, signature FROM results WHERE made_at >= ?"
        try:
            with closing(self._open()) as database:
                return database.execute(asked, (since,)).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise GateError(f"{self._path} cannot be read: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if not self._path.exists():  # for its owner's eyes only
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        database = sqlite3.connect(self._path, timeout=30)
        database.execute(
            "CREATE TABLE IF NOT EXISTS results"
            " (made_at REAL, subject BLOB, nonce BLOB, sealed BLOB, signature BLOB)"
        )
        return database

    def _subject(self, pixel_id: str) -> bytes:
        return hmac.new(self._sign, b"subject " + pixel_id.encode(), hashlib.sha256).digest()

    def _mac(self, subject: bytes, nonce: bytes, sealed: bytes) -> bytes:
        said = b"row " + subject + nonce + sealed
        return hmac.new(self._sign, said, hashlib.sha256).digest()

    def _sealed(self, nonce: bytes, data: bytes) -> bytes:
        """Data of up to 64 bytes under a pad that no other row has; undone by doing it again."""
        pads = (hmac.new(self._seal, nonce + bytes([n]), hashlib.sha256).digest() for n in (0, 1))
        return bytes(one ^ other for one, other in zip(data, b"".join(pads), strict=False))


def token_of(pdq: bytes, exposure: float, key: bytes) -> str:
    """What a saved edit says of its chain: the exposure that it began with, signed."""
    said = json.dumps([1, pdq.hex(), round(float(exposure), 6)]).encode()
    signature = hmac.new(derived(key, b"edit token"), said, hashlib.sha256).digest()
    return ".".join(base64.urlsafe_b64encode(part).decode() for part in (said, signature))


def began_by_token(token: str, hashes: Hashes, keys: Mapping[str, bytes]) -> float:
    """The exposure in a token that one of our keys has signed for this picture, else UNKNOWN.

    One that was forged or is another picture's says nothing: as if there were none.
    """
    try:
        said, signature = map(base64.urlsafe_b64decode, token.split("."))
    except (ValueError, binascii.Error):
        return UNKNOWN
    made = (hmac.new(derived(key, b"edit token"), said, hashlib.sha256) for key in keys.values())
    if not any(hmac.compare_digest(signature, one.digest()) for one in made):
        return UNKNOWN
    _, pdq, exposure = json.loads(said)
    own = np.frombuffer(bytes.fromhex(pdq), np.uint8)
    far = distances(np.asarray(hashes), np.broadcast_to(own, hashes.shape))
    return float(exposure) if far.min() <= MAX_DISTANCE else UNKNOWN
