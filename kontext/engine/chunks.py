"""Chunk work: pure functions of a chunk in a process pool, each result stored as it finishes.

A finished chunk is `<prefix>/<index>-<digest>/<table>.parquet` plus `done.json`, written last. The
digest covers the work function's name and the chunk itself, so a resumed run picks up exactly the
results that an undisturbed one would have made.
"""

import ctypes
import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from kontext.engine.stage import ChunkResult
from kontext.errors import ChunkError, GateError, ObjectNotFound, chunk_failure
from kontext.store.objects import ObjectStore, open_store
from kontext.store.parquet import parquet_bytes, read_parquet

CHANGES_RESULTS = False  # runs work, whatever it is

_LOG = logging.getLogger("kontext.work")
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VIPS_CONCURRENCY": "1",
    "RAYON_NUM_THREADS": "1",
}


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


_Job = Callable[[Any], ChunkResult]
_Outcome = tuple[str, str] | None  # of a chunk that failed: the error, and its traceback


def map_chunks(
    work: _Job,
    chunks: Sequence[Any],
    processes: int = 1,
    *,
    objects: ObjectStore,
    prefix: str,
    on_done: Callable[[int, int], None] | None = None,
    on_found: Callable[[int, int], None] = lambda done, total: None,
) -> list[ChunkResult]:
    """Run `work(chunk)` for every chunk whose result is not stored below `prefix` yet.

    Returns the tables in plan order, always as read back from the store. With `processes` > 1 the
    work runs in spawned single-threaded workers that die with this process. `on_done(done, total)`
    is called as chunks finish, `on_found` before where some were stored already.

    Raises:
        ChunkError: a chunk failed (its index and reason are in the message) or its worker died.
        GateError: a gate failed in a chunk. No chunk is kept, also none that was finished before.
        TypeError: a chunk holds a value that has no stable digest.
    """
    name = f"{work.__module__}.{work.__qualname__}"
    folders = [f"{prefix}/{i:06d}-{stable_digest([name, c])[:16]}" for i, c in enumerate(chunks)]
    stored = set(objects.list(f"{prefix}/"))
    missing = [i for i, folder in enumerate(folders) if f"{folder}/done.json" not in stored]
    done = len(chunks) - len(missing)
    if done:
        _LOG.info("%d of %d chunks are already stored", done, len(chunks))
        on_found(done, len(chunks))

    def advance(index: int, outcome: _Outcome) -> None:
        nonlocal done
        if outcome is not None:
            why, trace = outcome
            _LOG.error("chunk %d failed\n%s", index, trace)
            raise chunk_failure(index, len(chunks), why)
        done += 1
        if on_done:
            on_done(done, len(chunks))

    jobs = [(i, folders[i], chunks[i]) for i in missing]
    with kept_unless_gated(objects, prefix):
        if processes <= 1 or len(jobs) <= 1:
            for index, folder, chunk in jobs:
                advance(index, _run(objects, work, folder, chunk))
        else:
            _run_pool(objects.url, work, jobs, min(processes, len(jobs)), advance)
    return [_load(objects, folder) for folder in folders]


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


def _run(objects: ObjectStore, work: _Job, folder: str, chunk: Any) -> _Outcome:
    """Do one chunk and store it. Errors come back as values: many exceptions do not pickle."""
    try:
        tables = work(chunk)
    except Exception as error:  # noqa: BLE001 - reported with its index by the caller
        return f"{type(error).__name__}: {error}", traceback.format_exc()
    for name in sorted(tables):
        objects.put(f"{folder}/{name}.parquet", parquet_bytes(tables[name]))
    objects.put(f"{folder}/done.json", json.dumps({"tables": sorted(tables)}).encode())
    return None


def _run_pool(
    url: str,
    work: _Job,
    jobs: list[tuple[int, str, Any]],
    processes: int,
    advance: Callable[[int, _Outcome], None],
) -> None:
    """Run jobs in a spawned pool with at most two queued per worker, so memory stays flat."""
    with (
        _single_threaded_children(),
        ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(url, os.getpid()),
        ) as pool,
    ):
        todo = iter(jobs)
        running: dict[Future[_Outcome], int] = {}
        try:
            while True:
                while len(running) < 2 * processes and (job := next(todo, None)) is not None:
                    running[pool.submit(_run_in_worker, work, job[1], job[2])] = job[0]
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running[future]
                    advance(index, future.result())
                    del running[future]
        except BrokenProcessPool as error:
            chunks = ", ".join(str(index) for index in sorted(running.values()))
            text = f"a worker was killed, crashed or ran out of memory in one of chunks {chunks}"
            raise ChunkError(min(running.values()), text) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_WORKER_STORE: ObjectStore | None = None


def _start_worker(url: str, parent: int) -> None:
    global _WORKER_STORE
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    _WORKER_STORE = open_store(url)


def _run_in_worker(work: _Job, folder: str, chunk: Any) -> _Outcome:
    assert _WORKER_STORE is not None
    return _run(_WORKER_STORE, work, folder, chunk)


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Children read these before they import numpy or torch; ours are restored afterwards."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
