"""Every request to a model and its reply, kept in the home: what was paid for is not asked again.

One SQLite file: safe against kills, full disks and several processes. A request is entered before
it is sent. If the process dies before the reply is there, the entry stays as `lost`, and counts in
budgets as the most it could have cost.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

from kontext.errors import StoreError

Outcome = Literal[
    "answered",  # a chat completion
    "filtered",  # the server's content filter refuses this content
    "garbled",  # HTTP 200 with something else
    "error",  # HTTP status other than 200
    "lost",  # sent, and no whole reply came
    "unreached",  # never sent: no connection
]
FINAL = ("answered", "filtered")  # not asked again
_COSTLY = ("answered", "filtered", "garbled", "lost")  # may have been paid for

_TABLE = """
    CREATE TABLE IF NOT EXISTS requests (
        id INTEGER PRIMARY KEY, request TEXT NOT NULL, turn INTEGER NOT NULL,
        held_in INTEGER NOT NULL, held_out INTEGER NOT NULL,
        outcome TEXT NOT NULL DEFAULT 'lost', http INTEGER NOT NULL DEFAULT 0,
        model TEXT NOT NULL DEFAULT '', tokens_in INTEGER, tokens_out INTEGER,
        body TEXT NOT NULL DEFAULT ''
    )
"""


class Cost(NamedTuple):
    """Tokens of a request: of what was asked, and of the answer."""

    tokens_in: int
    tokens_out: int

    @property
    def tokens(self) -> int:
        """Both."""
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True)
class Exchange:
    """One request that was sent, and what came back."""

    outcome: Outcome
    http: int = 0  # status; 0 where none came
    body: str = ""  # as received
    model: str = ""  # as the server names it
    usage: Cost | None = None  # as the server counts; None where it does not say

    def cost(self, held: Cost) -> Cost:
        """What it cost: the most it could have, where nobody knows."""
        if self.usage is not None:
            return self.usage
        return held if self.outcome in _COSTLY else Cost(0, 0)


class Sent(NamedTuple):
    """A row of the file."""

    request: str
    turn: int  # 0 for the question, 1 where its answer had to be mended
    exchange: Exchange
    cost: Cost

    @property
    def reached(self) -> int:
        """1 where the server was asked, as far as anybody knows; else 0."""
        return int(self.exchange.outcome != "unreached")


class Replies:
    """The file of requests and replies; used by many threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock = path, Lock()
        with self._errors():
            self._file = sqlite3.connect(path, timeout=60, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode = WAL")  # one fsync a change, not three
            self._file.execute("PRAGMA synchronous = FULL")
            with self._file:
                self._file.execute(_TABLE)
                self._file.execute("CREATE INDEX IF NOT EXISTS asked ON requests (request, turn)")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def begin(self, request: str, turn: int, held: Cost) -> int:
        """Enter a request that is about to be sent. Returns its number."""
        into = "INSERT INTO requests (request, turn, held_in, held_out) VALUES (?, ?, ?, ?)"
        with self._errors(), self._lock, self._file:
            number = self._file.execute(into, (request, turn, *held)).lastrowid
        assert number is not None
        return number

    def finish(self, number: int, found: Exchange) -> None:
        """Keep what came back."""
        change = """UPDATE requests SET outcome = ?, http = ?, model = ?, tokens_in = ?,
            tokens_out = ?, body = ? WHERE id = ?"""
        usage = found.usage or (None, None)
        row = (found.outcome, found.http, found.model, *usage, found.body, number)
        with self._errors(), self._lock, self._file:
            self._file.execute(change, row)

    def final(self, request: str, turn: int) -> Exchange | None:
        """The reply of an earlier time that settles this request, if there is one."""
        done = [s.exchange for s in self.sent([request]) if s.turn == turn]
        return next((e for e in reversed(done) if e.outcome in FINAL), None)

    def sent(self, requests: Iterable[str]) -> Iterator[Sent]:
        """All that was sent for these requests, in the order given and then of time."""
        select = """SELECT turn, held_in, held_out, outcome, http, model, tokens_in, tokens_out,
            body FROM requests WHERE request = ? ORDER BY id"""
        for request in requests:
            with self._errors(), self._lock:
                rows = self._file.execute(select, (request,)).fetchall()
            for turn, held_in, held_out, outcome, http, model, t_in, t_out, body in rows:
                usage = None if t_in is None else Cost(t_in, t_out)
                found = Exchange(outcome, http, body, model, usage)
                yield Sent(request, turn, found, found.cost(Cost(held_in, held_out)))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"replies cannot be kept in {self._path}: {error}") from error
