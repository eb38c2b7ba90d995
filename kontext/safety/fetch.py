"""Fetching hash lists from exchanges: what has changed, into an encrypted list of the home.

The list in force is replaced when a fetch has ended, and not before: one that fails half way leaves
the last whole list with its date, which ages. A list keeps, beside each hash, an id of the record
that it came with, so that a record that is withdrawn takes its hashes along, and where the next
fetch begins.
"""

import datetime as dt
import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kontext.errors import ExchangeError
from kontext.safety import sealed
from kontext.safety.exchanges.child import main as child
from kontext.safety.exchanges.configured import Exchange
from kontext.safety.list_files import STANDING

CHANGES_RESULTS = False  # a list counts by what it holds

PATIENCE = 600.0  # seconds without an answer; the clients try five times, 60 s each
_FORGETS_DAYS = 30  # after which an exchange may have forgotten what it withdrew
_BYTES = {"md5": 16, "sha1": 20, "sha256": 32, "pdq": 32}
_KEY = 16  # hex characters of a record's id


@dataclass(frozen=True)
class Fetched:
    """What a fetch has brought. No hash is in it."""

    name: str
    version: str
    date: str
    hashes: int  # different ones, all in all
    added: int
    removed: int
    unused: dict[str, int] = field(default_factory=dict)  # type -> signals that nothing matches
    malformed: int = 0  # of a type that is matched, but no such hash
    whole: bool = False  # everything was fetched anew


def fetch(
    exchange: Exchange,
    home: Path,
    *,
    full: bool = False,
    patience: float = PATIENCE,
    now: dt.datetime | None = None,
) -> Fetched:
    """Bring an exchange's list up to date.

    Args:
        full: fetch everything anew; so does a list that is older than 30 days, or that came from
            elsewhere than the settings say today.
        patience: seconds after which an exchange that gives nothing is given up.

    Raises:
        ExchangeError: it cannot be reached, refuses, or gives what is not in its form.
        GateError: the earlier list or its key cannot be read.
    """
    today = (now or dt.datetime.now(dt.UTC)).date()
    path = home / STANDING / f"{exchange.name}{sealed.SUFFIX}"
    origin = hashlib.sha256(json.dumps(exchange.request(), sort_keys=True).encode()).hexdigest()
    before = _List() if full or not path.exists() else _List.parse(sealed.read(path, home))
    old = before.hashes()
    if before.origin != origin or (today - before.date).days > _FORGETS_DAYS:
        before = _List()
    whole = not before.since
    found = _List(before.since, origin, today, before.records)
    for answer in _answers(exchange, before.since, home, patience):
        found.take(answer)
        whole = whole or answer["whole"]
    new = found.hashes()
    if not new:
        raise ExchangeError(
            f"exchange {exchange.name} gives no hash that can be matched: the list stays as it is"
        )
    text = found.text(exchange.name)
    sealed.write(path, text, home)
    return Fetched(
        exchange.name,
        _version(text),
        found.date.isoformat(),
        len(new),
        len(new - old),
        len(old - new),
        dict(sorted(found.unused.items())),
        found.malformed,
        whole,
    )


@dataclass
class _List:
    """A fetched list: record id -> its hashes, `type,value` each, with spaces between."""

    since: str = ""
    origin: str = ""
    date: dt.date = dt.date.min
    records: dict[str, str] = field(default_factory=dict)
    unused: Counter[str] = field(default_factory=Counter)
    malformed: int = 0

    @classmethod
    def parse(cls, text: str) -> "_List":
        head = dict(
            line[1:].strip().split(": ", 1) for line in text.splitlines() if line.startswith("#")
        )
        found = cls(json.loads(head["since"]), head["origin"], dt.date.fromisoformat(head["date"]))
        for kind, value, key in sealed.rows(text):
            held = found.records.get(key)
            found.records[key] = f"{held} {kind},{value}" if held else f"{kind},{value}"
        return found

    def take(self, answer: dict[str, Any]) -> None:
        """Merge a delta: the last word on a record counts."""
        if answer["whole"]:
            self.records.clear()
        for key, signals in answer["records"].items():
            own = hashlib.sha256(key.encode()).hexdigest()[:_KEY]
            hashes = [] if signals is None else self._usable(signals)
            if hashes:
                self.records[own] = " ".join(hashes)
            else:
                self.records.pop(own, None)
        self.since = answer["since"] or self.since
        if answer["dated"]:
            self.date = dt.date.fromisoformat(answer["dated"])

    def _usable(self, signals: list[list[str]]) -> list[str]:
        found = []
        for name, value in signals:
            kind, entry = name.strip().lower(), value.strip().lower()
            if kind not in _BYTES:
                self.unused[kind[:40]] += 1
            elif len(entry) != 2 * _BYTES[kind] or set(entry) - set("0123456789abcdef"):
                self.malformed += 1
            else:
                found.append(f"{kind},{entry}")
        return found

    def hashes(self) -> set[str]:
        return {entry for entries in self.records.values() for entry in entries.split()}

    def text(self, name: str) -> str:
        rows = sorted(f"{e},{key}" for key, own in self.records.items() for e in own.split())
        body = "\n".join(["type,value,record", *rows]) + "\n"
        head = {
            "provider": name,
            "version": _version(body),
            "date": self.date.isoformat(),
            "origin": self.origin,
            "since": json.dumps(self.since),
        }
        return "".join(f"# {key}: {value}\n" for key, value in head.items()) + body


def _version(text: str) -> str:
    """The same hashes are the same version, whenever they were fetched."""
    return sealed.digest(text)[:12]


def _answers(
    exchange: Exchange, since: str, home: Path, patience: float
) -> Iterator[dict[str, Any]]:
    """The deltas of one fetch, to its end. Raises ExchangeError where there is none."""
    said = f"exchange {exchange.name}: "
    request = {
        "settings": exchange.request(),
        "credentials": exchange.credentials(),
        "since": since,
    }
    running = _start(home)
    assert running.stdin is not None and running.stdout is not None
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read(stream: Any = running.stdout) -> None:
        for line in stream:
            lines.put(line)
        lines.put(b"")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        with running.stdin as stdin:
            stdin.write(json.dumps(request).encode())
        while True:
            answer = _decoded(lines, patience, said)
            if "end" in answer:
                return
            yield answer
    finally:
        running.kill()
        running.wait()
        reader.join()
        running.stdout.close()


def _decoded(lines: "queue.SimpleQueue[bytes]", patience: float, said: str) -> dict[str, Any]:
    try:
        line = lines.get(timeout=patience)
    except queue.Empty:
        raise ExchangeError(f"{said}no answer for {patience:g} s; {_STAYS}") from None
    if not line:
        raise ExchangeError(f"{said}its process ended without an answer; {_STAYS}")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise ExchangeError(f"{said}{answer['error']}; {_STAYS}")
    return answer


_STAYS = "the list stays as it is"


def _start(home: Path) -> "subprocess.Popen[bytes]":
    paths = os.pathsep.join(str(Path(path or ".").resolve()) for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-c", f"from {child.__module__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a crash of the interpreter quotes what it had in hand
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        cwd=home,
    )
