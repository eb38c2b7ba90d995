"""Frames of a video, as the caller of the video process has them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from kontext.data.decode.process import DiedError, TooLateError, receive
from kontext.data.decode.result import CPU_SECONDS, WALL_SECONDS, Reason
from kontext.data.video.child import main as child
from kontext.errors import DecodeError, SourceError


@dataclass(frozen=True)
class VideoFacts:
    """What a video says of itself: length in seconds, size in pixels."""

    seconds: float
    width: int
    height: int
    codec: str


@dataclass(frozen=True)
class FoundFrame:
    """A frame as an uncompressed picture file; its own time in seconds; its shot (see reader)."""

    ppm: bytes
    at: float
    shot: int


def check_installed() -> None:
    """Raises SourceError where PyAV is not there."""
    if find_spec("av") is None:
        raise SourceError("videos are read by PyAV: pip install 'kontext[video]'")


def probe(path: Path) -> VideoFacts:
    """A video's facts. Nothing is decoded that is not needed for them. Raises DecodeError."""
    with _asked({"path": str(path.absolute()), "cpu_seconds": CPU_SECONDS}) as answers:
        facts, _ = next(answers)
    return VideoFacts(
        float(facts["seconds"]), int(facts["width"]), int(facts["height"]), str(facts["codec"])
    )


def frames_at(
    path: Path, times: Sequence[float], cut: float, since: float | None = None
) -> Iterator[FoundFrame | DecodeError]:
    """The frame at each of `times` (seconds, rising), or why there is none.

    Between two of them the decoder may take as long as for a picture, or as the video takes.
    """
    longest = max((b - a for a, b in pairwise(times)), default=0.0)
    since = times[0] if since is None else since
    request = {"path": str(path.absolute()), "times": list(times), "cut": cut, "since": since}
    request["cpu_seconds"] = int(CPU_SECONDS + longest)
    done = 0
    problem = DecodeError(Reason.TRUNCATED, "the video ends before")
    try:
        with _asked(request) as answers:
            for facts, body in answers:
                if "end" in facts:
                    break
                height, width, _ = (int(n) for n in facts["shape"])
                ppm = b"P6\n%d %d\n255\n" % (width, height) + bytes(body)
                done += 1
                yield FoundFrame(ppm, float(facts["at"]), int(facts["shot"]))
    except DecodeError as error:
        problem = error
    yield from [problem] * (len(times) - done)


@contextmanager
def _asked(request: dict[str, Any]) -> Iterator[Iterator[tuple[dict[str, Any], bytearray]]]:
    """The answers of a process of its own. Reading them raises DecodeError."""
    check_installed()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
    running = subprocess.Popen(
        [sys.executable, "-c", f"from {child.__module__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # FFmpeg's own words on damaged files
        env=environment,
    )
    assert running.stdin is not None and running.stdout is not None
    try:
        running.stdin.write(json.dumps(request).encode())
        running.stdin.close()
        yield _answers(running, running.stdout)
    finally:
        running.stdout.close()
        running.kill()
        running.wait()


def _answers(
    running: subprocess.Popen[bytes], pipe: IO[bytes]
) -> Iterator[tuple[dict[str, Any], bytearray]]:
    while True:
        try:
            facts, body = receive(pipe, time.monotonic() + WALL_SECONDS)
        except TooLateError as error:
            raise DecodeError(Reason.TIMEOUT, f"nothing for {WALL_SECONDS} s") from error
        except (DiedError, OSError) as error:
            raise _death(running.wait()) from error
        if "reason" in facts:
            raise DecodeError(Reason(facts["reason"]), str(facts["detail"]))
        yield facts, body


def _death(code: int) -> DecodeError:
    """What the end of the process says of the video."""
    if code == -signal.SIGXCPU:
        return DecodeError(Reason.TIMEOUT, "too much processor time for one frame")
    crash = code in (1, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE)
    return DecodeError(Reason.CORRUPT if crash else Reason.RESOURCE, "its decoder crashed")
