"""A pool of processes on this machine.

Each has one task at a time, so it is known who dies of what. (`concurrent.futures` gives up the
whole pool where one process dies, and cannot tell at what.)
"""

import ctypes
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from kontext.engine.executors.base import Failed, Lost, Outcome, Task
from kontext.engine.executors.worker import ONE_THREAD, perform, single_threaded

_STARTED = "started"  # a worker's first word
_SPAWN = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ticket: int | None = None  # of the task that it has
    started: bool = False  # it could import what it needs


class Processes:
    """See `Executor`. The workers are single-threaded, and die with this process.

    Args:
        count: workers, which the first task starts.
        store: URL of the store, to which they write their results.
        memory: bytes that each may take; 0: no limit.
    """

    def __init__(self, count: int, store: str, memory: int = 0) -> None:
        self._count, self._store, self._memory = count, store, memory
        self._workers: list[_Worker] = []

    def width(self) -> int:
        """See `Executor`."""
        return self._count

    def submit(self, ticket: int, task: Task) -> None:
        """See `Executor`."""
        if not any(one.ticket is None for one in self._workers):
            # all that there may be: they start at the same time, and one that died is replaced
            self._workers += [self._start() for _ in range(self._count - len(self._workers))]
        worker = next(one for one in self._workers if one.ticket is None)
        level = logging.getLogger("kontext").getEffectiveLevel()
        task = replace(task, store=self._store, memory=self._memory, log_level=level)
        try:
            worker.pipe.send(task)
        except (BrokenPipeError, ConnectionResetError):
            worker.pipe.close()  # it died while it had nothing to do: `next` will say so
        worker.ticket = ticket

    def next(self) -> tuple[int, Outcome]:
        """See `Executor`."""
        while True:
            busy = {one.pipe: one for one in self._workers if one.ticket is not None}
            gone = [one for pipe, one in busy.items() if pipe.closed]
            # a pipe whose process has died can be read, too
            worker = gone[0] if gone else busy[wait(list(busy))[0]]  # type: ignore[index]
            ticket = worker.ticket
            assert ticket is not None
            try:
                said = worker.pipe.recv()
            except (EOFError, OSError):
                self._workers.remove(worker)
                return ticket, _end(worker)
            if said == _STARTED:
                worker.started = True
                continue
            worker.ticket = None
            return ticket, said

    def close(self) -> None:
        """See `Executor`."""
        for worker in self._workers:
            worker.pipe.close()  # it ends when it has nothing to read
            if worker.ticket is not None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join()

    def _start(self) -> _Worker:
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(target=_serve, args=(theirs, os.getpid()), daemon=False)
        with _single_threaded_children():
            process.start()
        theirs.close()  # so that its end is seen here
        return _Worker(process, ours)


def _end(worker: _Worker) -> Outcome:
    """What is known of how a process died."""
    worker.pipe.close()
    worker.process.join()
    code = worker.process.exitcode
    assert code is not None
    if code == -signal.SIGKILL:
        return Lost("it was killed, perhaps because memory ran out")
    if code < 0:
        return Lost(f"it crashed: {signal.Signals(-code).name}")
    if not worker.started:
        return Failed(f"a worker does not start (code {code})", "its error is above")
    return Lost(f"it ended with code {code}")


def _serve(pipe: Connection, parent: int) -> None:
    """A worker: tasks in, outcomes out, until the pipe or the parent ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # prctl(2)
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    pipe.send(_STARTED)
    while True:
        try:
            packed = pipe.recv_bytes()
        except EOFError:
            return
        try:
            task = pickle.loads(packed)
        except Exception as error:  # noqa: BLE001 - its module cannot be imported, for example
            pipe.send(Failed(f"{type(error).__name__}: {error}", traceback.format_exc()))
            continue
        single_threaded()
        pipe.send(perform(task))


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Children read these before they import numpy or torch; ours are restored afterwards."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
