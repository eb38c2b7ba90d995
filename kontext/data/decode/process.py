"""The decoder process as its caller has it: started once, replaced when a picture ends it.

A native decoder can hang, crash or take all memory, and no thread can be stopped from outside. So
pictures are decoded in a process of their own, one for each process that decodes.
"""

import atexit
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from kontext.data.decode.child import main as child
from kontext.data.decode.result import CPU_SECONDS, WALL_SECONDS, Decoded, LaterError, Reason
from kontext.data.decode.wire import ENOUGH, LENGTH, MORE, check_lengths, decoded_of, send
from kontext.data.pixels import Pixels
from kontext.errors import DecodeError, KontextError

Later = Callable[[Pixels], bool]
_TRIES = 2  # a process may die of something else than the picture
_START_SECONDS = 120
_PIPE_BYTES = 1 << 20  # the most that Linux gives to everybody


class DiedError(Exception):
    """The process ended without an answer."""


class TooLateError(DiedError):
    """There is no answer yet."""


class DecoderProcess:
    """One decoder. Threads take turns."""

    def __init__(self, cpu_seconds: int = CPU_SECONDS, wall_seconds: float = WALL_SECONDS) -> None:
        """A picture may take `cpu_seconds` of processor time, and `wall_seconds` in all."""
        self._cpu_seconds, self._wall_seconds = cpu_seconds, wall_seconds
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def decode(self, data: bytes, options: dict[str, Any], later: Later | None = None) -> Decoded:
        """As `decode_image`, within the limits. Raises DecodeError."""
        options = {**options, "later": later is not None}
        with self._lock:
            for _ in range(_TRIES):
                running = self._start()
                try:
                    send(_pipe(running.stdin), options, data)
                    deadline = time.monotonic() + self._wall_seconds
                    header, body = receive(_pipe(running.stdout), deadline)
                except (DiedError, OSError) as error:
                    reason, text = self._ended(error)
                    if reason is Reason.TIMEOUT:
                        raise DecodeError(reason, text) from error
                else:
                    first = decoded_of(header, body)
                    if later is not None:
                        self._show_later(running, first, later, deadline)
                    return first
        raise DecodeError(reason, text)

    def _show_later(
        self, running: subprocess.Popen[bytes], first: Decoded, later: Later, deadline: float
    ) -> None:
        """Hand over what is behind the first picture, until there is no more or it is enough."""
        try:
            while True:
                header, body = receive(_pipe(running.stdout), deadline)
                if "reason" in header:
                    raise LaterError(header["reason"], str(header["detail"]), first)
                if "end" in header:
                    return
                began = time.monotonic()
                rgb = np.frombuffer(body, np.uint8).reshape([int(n) for n in header["shape"]])
                more = later(rgb)
                deadline += time.monotonic() - began  # the decoder did not take it
                _pipe(running.stdin).write(MORE if more else ENOUGH)
                _pipe(running.stdin).flush()
                if not more:
                    return
        except (DiedError, OSError) as error:
            raise LaterError(*self._ended(error), first) from error
        except LaterError:
            raise
        except BaseException:
            self._stop()  # it would go on with this picture
            raise

    def _ended(self, error: Exception) -> tuple[Reason, str]:
        """End the process that did not answer; what that says of the picture, and in words."""
        reason = self._stop()
        if reason is Reason.TIMEOUT or isinstance(error, TooLateError):
            limit = f"{self._cpu_seconds} s of processor time"
            return Reason.TIMEOUT, f"it took more than {limit}"
        return reason, "its decoder crashed"

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _start(self) -> subprocess.Popen[bytes]:
        # a fork has its parent's pipes, but may not talk on them
        if self._running is not None and self._owner == os.getpid():
            if self._running.poll() is None:
                return self._running
            self._stop()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "VIPS_CONCURRENCY": "1",  # its caller already runs once for every processor
            "OMP_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
        }
        self._running = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"from {child.__module__} import main; main({self._cpu_seconds})",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._owner = os.getpid()
        _widen(self._running.stdout)
        try:
            receive(_pipe(self._running.stdout), time.monotonic() + _START_SECONDS)
        except DiedError as error:
            self._stop()
            raise KontextError("the process that decodes pictures does not start") from error
        return self._running

    def _stop(self) -> Reason:
        """End the process, if it has not ended. Returns what its end says of the picture."""
        running, self._running = self._running, None
        if running is None or self._owner != os.getpid():
            return Reason.RESOURCE
        for pipe in (running.stdin, running.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was not yet written has no reader any more
                    continue
        try:
            code = running.wait(1)
        except subprocess.TimeoutExpired:
            running.kill()
            code = running.wait()
        if code == -signal.SIGXCPU:
            return Reason.TIMEOUT
        crash = code in (1, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE)
        return Reason.CORRUPT if crash else Reason.RESOURCE  # libraries abort without memory


def receive(pipe: IO[bytes], deadline: float) -> tuple[dict[str, Any], bytearray]:
    """One message, waited for until `deadline` of the monotonic clock.

    Raises:
        DiedError: the other side has gone, or (TooLateError) says nothing.
    """
    header, body = check_lengths(bytes(_read(pipe.fileno(), LENGTH.size, deadline)))
    text = _read(pipe.fileno(), header, deadline)
    return json.loads(bytes(text)), _read(pipe.fileno(), body, deadline)


def _read(descriptor: int, size: int, deadline: float) -> bytearray:
    buffer = bytearray(size)
    view, at = memoryview(buffer), 0
    while at < size:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise TooLateError
        count = os.readv(descriptor, [view[at:]])
        if not count:
            raise DiedError
        at += count
    return buffer


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe hold more than Linux's 64 KiB, where it may: a picture has megabytes."""
    size = getattr(fcntl, "F_SETPIPE_SZ", None)
    if size is not None:
        with suppress(OSError):  # the user has too many already: then it is slower
            fcntl.fcntl(_pipe(pipe).fileno(), size, _PIPE_BYTES)


def _pipe(found: Any) -> BinaryIO:
    assert found is not None
    pipe: BinaryIO = found
    return pipe


PROCESS = DecoderProcess()
atexit.register(PROCESS.close)
