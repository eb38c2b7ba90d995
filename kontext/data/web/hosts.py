"""Turns at a host: requests to one come one after another, from all processes of a home."""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from kontext.safety.ids import subject_hmac

_FOLDER = "cache/web/hosts"


class Turns:
    """When a host may be asked next. Hosts are kept as keyed digests, in files under the home."""

    def __init__(self, home: Path, key: bytes, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._key, self._clock = home / _FOLDER, key, clock
        self._folder.mkdir(parents=True, exist_ok=True)

    def take(self, host: str, wait: float) -> float:
        """Seconds until our turn; the next one is `wait` seconds after it."""
        return self._move(host, lambda now, free: (max(now, free), max(now, free) + wait))

    def rest(self, host: str, seconds: float) -> None:
        """Leave the host alone for some seconds from now, as it has asked."""
        self._move(host, lambda now, free: (now, max(free, now + seconds)))

    def _move(self, host: str, move: Callable[[float, float], tuple[float, float]]) -> float:
        path = self._folder / subject_hmac(host, self._key)[:32]
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            now, text = self._clock(), file.read()
            # a clock that was set back must not stop everything
            free = min(float(text), now + 3600) if text else 0.0
            turn, free = move(now, free)
            file.seek(0)
            file.write(f"{free:.6f}".ljust(len(text)))
        return turn - now
