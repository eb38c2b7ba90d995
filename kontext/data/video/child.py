"""The video process: `main` of this module answers one request and ends.

Memory is limited for good, processor time anew for every frame, as for a picture.
"""

import json
import logging
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kontext.data.decode.child import limit
from kontext.data.decode.result import Reason
from kontext.data.decode.wire import send
from kontext.data.video.reader import frames, probe
from kontext.errors import DecodeError

_MEMORY = 3 << 30  # address space, with the interpreter and the libraries


def main() -> None:
    """Read a request as JSON from standard input; answer with facts, or frame by frame."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides
    logging.disable(logging.WARNING)
    request = json.load(sys.stdin)
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_AS, _MEMORY)
    try:
        _answer(request, answers)
    except DecodeError as error:
        send(answers, {"reason": str(error.reason), "detail": str(error)})
    except MemoryError:
        send(answers, {"reason": str(Reason.RESOURCE), "detail": "not enough memory"})


def _answer(request: dict[str, Any], answers: Any) -> None:
    path = Path(request["path"])
    _more_time(request["cpu_seconds"])
    if "times" not in request:
        send(answers, asdict(probe(path)))
        return
    for frame in frames(path, request["times"], request["cut"], request["since"]):
        facts = {"asked": frame.asked, "at": frame.at, "shot": frame.shot}
        send(answers, {**facts, "shape": frame.rgb.shape}, frame.rgb.reshape(-1))
        _more_time(request["cpu_seconds"])
    send(answers, {"end": True})


def _more_time(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)
