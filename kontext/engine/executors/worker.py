"""What a worker does with a task, wherever it is."""

import json
import logging
import os
import resource
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from kontext.engine.executors.base import Done, Failed, Line, Lost, Outcome, ReadsFiles, Task
from kontext.engine.stage import ChunkResult
from kontext.store.objects import ObjectStore, open_store
from kontext.store.parquet import parquet_bytes

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VIPS_CONCURRENCY": "1",
    "RAYON_NUM_THREADS": "1",
}
_MOST_LINES = 200  # of a chunk's log
_SHOWN = 3  # files in an error


def perform(task: Task, objects: ObjectStore | None = None) -> Outcome:
    """Do one task. Errors come back as values: many exceptions do not pickle.

    Args:
        objects: where the result is stored. None: where the task says; if nowhere, it comes back.
    """
    os.environ.update(task.environment)
    lines = _Lines()
    try:
        with lines.collected(task.log_level), _at_most(task.memory):
            if task.far:
                _require(task.chunk)
            files = result_files(task.work(task.chunk))
        if objects is None and task.store:
            objects = _store(task.store)
        if objects is not None:
            store(objects, task.folder, files)
            files = {}
    except MemoryError:
        limit = f" (limit {task.memory:,} bytes)" if task.memory else ""
        return Lost(f"there was not enough memory{limit}", lines.found())
    except Exception as error:  # noqa: BLE001 - reported with its index by who asked
        why = f"{type(error).__name__}: {error}"
        return Failed(why, traceback.format_exc(), lines.found())
    return Done(files, lines.found())


def store(objects: ObjectStore, folder: str, files: Mapping[str, bytes]) -> None:
    """Store a result's files. `done.json` comes last: where it is, all others are."""
    for name in sorted(files, key=lambda name: (name == "done.json", name)):
        objects.put(f"{folder}/{name}", files[name])


def result_files(tables: ChunkResult) -> dict[str, bytes]:
    """The files of a chunk's result, by name."""
    files = {f"{name}.parquet": parquet_bytes(tables[name]) for name in sorted(tables)}
    return {**files, "done.json": json.dumps({"tables": sorted(tables)}).encode()}


def single_threaded() -> None:
    """One thread for the libraries that do not read the environment, or did before it was set."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@lru_cache(maxsize=4)
def _store(url: str) -> ObjectStore:
    return open_store(url)


def _require(chunk: Any) -> None:
    """Raises FileNotFoundError where a chunk's files are not to be had on this machine.

    Here, because to who reads a picture a folder that is not mounted is a picture that is gone.
    """
    wanted = chunk.files() if isinstance(chunk, ReadsFiles) else ()
    missing = [str(path) for path in wanted if not os.access(path, os.R_OK)]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise FileNotFoundError(
            f"machine {os.uname().nodename} cannot read {', '.join(missing[:_SHOWN])}{more}: what "
            "is in folders must be at the same path on every node of the cluster"
        )


@contextmanager
def _at_most(memory: int) -> Iterator[None]:
    """This process gets no more memory of its own than that: then allocations fail (Linux)."""
    if not memory:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    hard = before[1]
    soft = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


class _Lines(logging.Handler):
    """The lines that the work logs, for the log of the stage."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Line] = []
        self._more = 0

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) == _MOST_LINES:
            self._more += 1
            return
        self._lines.append(Line(record.name, record.levelno, record.getMessage()))

    @contextmanager
    def collected(self, level: int) -> Iterator[None]:
        """Collect what is logged below `kontext`, from that level on; 0: nothing."""
        if not level:
            yield
            return
        logger = logging.getLogger("kontext")
        before = logger.level
        logger.setLevel(level)
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(before)

    def found(self) -> tuple[Line, ...]:
        """All of them, and how many there were too many."""
        if self._more:
            last = Line("kontext.work", logging.WARNING, f"{self._more} more lines are left out")
            return (*self._lines, last)
        return tuple(self._lines)
