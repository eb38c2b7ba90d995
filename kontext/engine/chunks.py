"""Chunk work: pure functions of a chunk, run somewhere, each result stored as it finishes.

A finished chunk is `<prefix>/<index>-<digest>/<table>.parquet` plus `done.json`, written last. The
digest covers the work function's name and the chunk itself, so a resumed run picks up exactly the
results that an undisturbed one would have made.

A worker may be lost: killed, out of memory, on a machine that is gone. Its chunk is done again. One
that has cost three workers is cut in halves, and those in halves, until it is known which item does
it; what becomes of that item the chunk says (`Divisible`). Where work runs: `engine.executors`.
"""

import dataclasses
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import PurePath
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from kontext.engine.executors.base import (
    Done,
    Executor,
    Failed,
    Lost,
    Outcome,
    Task,
)
from kontext.engine.executors.choice import executor
from kontext.engine.executors.here import Here
from kontext.engine.executors.worker import result_files, store
from kontext.engine.stage import NOTHING_SPECIAL, ChunkResult, Needs
from kontext.errors import ChunkError, GateError, KontextError, ObjectNotFound, chunk_failure
from kontext.store.objects import ObjectStore
from kontext.store.parquet import parquet_bytes, read_parquet

CHANGES_RESULTS = False  # runs work, whatever it is

_LOG = logging.getLogger("kontext.work")
_LIVES = 3  # workers that a chunk or an item may cost
_MOST_GIVEN_UP = 20  # items: when there are more, it is not the items


@runtime_checkable
class Divisible(Protocol):
    """A chunk of which one item can be given up. Others end the stage when they cost workers."""

    def halves(self) -> tuple[Self, Self] | None:
        """Two chunks of its items in order, with about as many each; None for a single item."""

    def given_up(self, why: str) -> ChunkResult:
        """The result of a single item that cannot be worked on, for a reason that is recorded."""


class StoredChunk(Mapping[str, pa.Table]):
    """A finished chunk's tables, read from the store when asked for."""

    def __init__(self, objects: ObjectStore, folder: str, names: Sequence[str]) -> None:
        self._objects = objects
        self._folder = folder
        self._names = tuple(names)

    def __getitem__(self, name: str) -> pa.Table:
        if name not in self._names:
            raise KeyError(name)
        return read_parquet(self._objects.get(f"{self._folder}/{name}.parquet"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


_Work = Callable[[Any], ChunkResult]


def map_chunks(
    work: _Work,
    chunks: Sequence[Any],
    processes: int = 1,
    *,
    objects: ObjectStore,
    prefix: str,
    needs: Needs = NOTHING_SPECIAL,
    on_done: Callable[[int, int], None] | None = None,
    on_found: Callable[[int, int], None] = lambda done, total: None,
) -> list[ChunkResult]:
    """Run `work(chunk)` for every chunk whose result is not stored below `prefix` yet.

    Returns the tables in plan order, always as read back from the store. With `processes` > 1 the
    work runs in single-threaded workers that die with this process; else, or where one chunk is
    left, in this process; and all of it on Ray where the environment says so. `needs` is what one
    chunk takes there. `on_done(done, total)` is called as chunks finish, `on_found` before where
    some were stored already.

    Raises:
        ChunkError: a chunk failed (its index and reason are in the message), or its workers died
            three times and it cannot give up an item.
        GateError: a gate failed in a chunk. No chunk is kept, also none that was finished before.
        EngineError: where the work is to run is set wrongly, or not to be had.
        TypeError: a chunk holds a value that has no stable digest.
    """
    name = f"{work.__module__}.{work.__qualname__}"
    pieces = [_Piece(i, chunk, _folder(prefix, i, name, chunk)) for i, chunk in enumerate(chunks)]
    stored = set(objects.list(f"{prefix}/"))
    missing = [piece for piece in pieces if f"{piece.folder}/done.json" not in stored]
    done = len(chunks) - len(missing)
    if done:
        _LOG.info("%d of %d chunks are already stored", done, len(chunks))
        on_found(done, len(chunks))

    def advance() -> None:
        nonlocal done
        done += 1
        if on_done:
            on_done(done, len(chunks))

    if missing:
        begun = f"{prefix}/begun"
        # what a run in this process has died of, or was killed at, is not done in it again
        alone = (processes <= 1 or len(missing) <= 1) and begun not in stored
        count = 0 if alone else min(processes, len(missing))
        with (
            kept_unless_gated(objects, prefix),
            closing(executor(work.__module__, count, needs, objects)) as workers,
        ):
            run = _Run(work, name, len(chunks), objects, prefix, stored, workers, advance)
            if isinstance(workers, Here):
                objects.put(begun, b"")
            try:
                run.all(missing)
            finally:
                objects.delete(begun)
    return [_load(objects, piece.folder) for piece in pieces]


@dataclasses.dataclass(eq=False)
class _Piece:
    """A chunk of the plan, or a part of one that costs workers."""

    index: int  # of the chunk of the plan
    chunk: Any
    folder: str
    lives: int = _LIVES  # workers that it may still cost
    whole: "_Piece | None" = None  # that it is part of
    parts: "tuple[_Piece, ...]" = ()
    done: bool = False


@dataclasses.dataclass(eq=False)
class _Run:
    """The work that is left of a plan."""

    work: _Work
    name: str
    total: int  # chunks of the plan
    objects: ObjectStore
    prefix: str
    stored: set[str]  # keys of finished work from before
    workers: Executor
    advance: Callable[[], None]
    todo: deque[_Piece] = dataclasses.field(default_factory=deque)
    error: KontextError | None = None
    given_up: int = 0

    def all(self, pieces: Sequence[_Piece]) -> None:
        """Do these chunks. After an error nothing is begun, and what is under way is finished."""
        self.todo.extend(pieces)
        running: dict[int, _Piece] = {}
        ticket = 0
        while self.todo or running:
            while self.todo and len(running) < self.workers.width():
                piece = self.todo.popleft()
                self.workers.submit(ticket, Task(self.work, piece.chunk, piece.folder))
                running[ticket] = piece
                ticket += 1
            ended, outcome = self.workers.next()
            self._ended(running.pop(ended), outcome)
        if self.error is not None:
            raise self.error

    def _ended(self, piece: _Piece, outcome: Outcome) -> None:
        for line in outcome.lines:
            logging.getLogger(line.logger).log(line.level, "chunk %d: %s", piece.index, line.text)
        if isinstance(outcome, Done):
            if outcome.files:
                store(self.objects, piece.folder, outcome.files)
            self._finished(piece)
        elif isinstance(outcome, Failed):
            _LOG.error("chunk %d failed\n%s", piece.index, outcome.trace)
            self._fail(chunk_failure(piece.index, self.total, outcome.why))
        elif self.error is None:
            self._lost(piece, outcome)

    def _fail(self, error: KontextError) -> None:
        """A gate's failure counts most: nothing may be kept then."""
        self.todo.clear()
        gates = isinstance(error, GateError) and not isinstance(self.error, GateError)
        if self.error is None or gates:
            self.error = error

    def _fatal(self, piece: _Piece, what: str) -> None:
        self._fail(ChunkError(piece.index, f"chunk {piece.index} of {self.total} {what}"))

    def _lost(self, piece: _Piece, outcome: Lost) -> None:
        """Again; or in parts; or, where it is a single item, without it."""
        piece.lives -= 1
        what = "its worker" if piece.whole is None else "the worker of a part"
        _LOG.warning("chunk %d: %s was lost: %s", piece.index, what, outcome.why)
        if piece.lives > 0:
            self.todo.append(piece)
            return
        if not isinstance(piece.chunk, Divisible):
            self._fatal(piece, f"cost {_LIVES} workers: {outcome.why}")
            return
        halves = piece.chunk.halves()
        if halves is None:
            self.given_up += 1
            if self.given_up > _MOST_GIVEN_UP:
                self._fatal(piece, f"and others cost workers at more than {_MOST_GIVEN_UP} items, "
                           f"so it is not the items: {outcome.why}")  # fmt: skip
                return
            _LOG.error("chunk %d: an item that costs its workers is given up", piece.index)
            why = f"{_LIVES} workers were lost at it: {outcome.why}"
            store(self.objects, piece.folder, result_files(piece.chunk.given_up(why)))
            self._finished(piece)
            return
        piece.parts = tuple(self._part(piece, half) for half in halves)
        for part in piece.parts:
            if f"{part.folder}/done.json" in self.stored:
                self._finished(part)
            else:
                self.todo.append(part)

    def _part(self, piece: _Piece, half: Any) -> _Piece:
        folder = _folder(self.prefix, piece.index, self.name, half)
        single = not isinstance(half, Divisible) or half.halves() is None
        # which half it is, one loss says; that an item is to blame takes as many as at first
        return _Piece(piece.index, half, folder, lives=_LIVES if single else 1, whole=piece)

    def _finished(self, piece: _Piece) -> None:
        piece.done = True
        whole = piece.whole
        if whole is None:
            self.advance()
        elif whole.parts and all(part.done for part in whole.parts):
            found = [_load(self.objects, part.folder) for part in whole.parts]
            names = dict.fromkeys(name for tables in found for name in tables)
            joined = {n: pa.concat_tables([tables[n] for tables in found]) for n in names}
            store(self.objects, whole.folder, result_files(joined))
            self._finished(whole)


def _folder(prefix: str, index: int, name: str, chunk: Any) -> str:
    return f"{prefix}/{index:06d}-{stable_digest([name, chunk])[:16]}"


@contextmanager
def kept_unless_gated(objects: ObjectStore, prefix: str) -> Iterator[None]:
    """Chunks stay if this fails, so that a rerun goes on with them; not where a gate fails.

    A gate that fails now may have let through what the finished chunks hold.
    """
    try:
        yield
    except GateError:
        clear_work(objects, prefix)
        raise


def clear_work(objects: ObjectStore, prefix: str) -> None:
    """Delete stored chunk results, markers first."""
    keys = objects.list(f"{prefix}/")
    for key in sorted(keys, key=lambda key: not key.endswith("/done.json")):
        objects.delete(key)


def stable_digest(value: Any) -> str:
    """SHA-256 of a value's content, equal in every process and run.

    Takes None, bool, int, float, str, bytes, paths, lists, tuples, sets, mappings, dataclasses,
    pydantic models, numpy arrays and Arrow tables. Raises TypeError for anything else.
    """
    hasher = hashlib.sha256()
    for part in _parts(value):
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if value is None or isinstance(value, bool | int | float | str | PurePath):
        kind = "Path" if isinstance(value, PurePath) else type(value).__name__
        yield f"{kind}:{value}".encode()
    elif isinstance(value, bytes):
        yield b"bytes"
        yield value
    elif isinstance(value, list | tuple):
        yield f"list:{len(value)}".encode()
        for item in value:
            yield from _parts(item)
    elif isinstance(value, set | frozenset):
        yield f"set:{len(value)}".encode()
        yield from (digest.encode() for digest in sorted(stable_digest(item) for item in value))
    elif isinstance(value, Mapping):
        yield f"map:{len(value)}".encode()
        for digest, key in sorted((stable_digest(key), key) for key in value):
            yield digest.encode()
            yield from _parts(value[key])
    elif isinstance(value, BaseModel):
        yield type(value).__name__.encode()
        yield from _parts(value.model_dump(mode="json"))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__.encode()
        yield from _parts({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    elif isinstance(value, np.ndarray):
        yield f"array:{value.dtype.str}:{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, pa.Table):
        yield b"table"
        yield parquet_bytes(value)
    else:
        raise TypeError(f"chunks may not hold a {type(value).__name__}: it has no stable digest")


def _load(objects: ObjectStore, folder: str) -> ChunkResult:
    try:
        names = json.loads(objects.get(f"{folder}/done.json"))["tables"]
    except ObjectNotFound as error:
        raise ChunkError(-1, f"a finished chunk vanished from the store: {error}") from error
    return StoredChunk(objects, folder, names)
