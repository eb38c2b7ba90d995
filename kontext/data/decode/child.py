"""The decoder process: `main` of this module, one picture at a time.

It lives as long as its standard input is open. Memory is limited for good, processor time anew for
every picture: a decoder that runs on is stopped by the system, wherever it is.
"""

import json
import logging
import os
import resource
import signal
import sys
import warnings
from typing import BinaryIO

import numpy as np

from kontext.data.decode.later import later_pictures
from kontext.data.decode.problems import as_decode_errors
from kontext.data.decode.raster import decode_here
from kontext.data.decode.result import MAX_MEMORY, Reason
from kontext.data.decode.wire import LENGTH, MORE, answer_of, check_lengths, send
from kontext.errors import DecodeError

_OWN_MEMORY = 2 << 30  # address space of the interpreter, the libraries, the file and the answer


def main(cpu_seconds: int) -> None:
    """Answer until standard input ends. A picture may take `cpu_seconds` of processor time."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_AS, MAX_MEMORY + _OWN_MEMORY)
    send(answers, {"ready": True})
    while packed := requests.read(LENGTH.size):
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_seconds)
        _answer(packed, requests, answers)


def _answer(packed: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    header, body = check_lengths(packed)
    options = json.loads(requests.read(header))
    data = requests.read(body)
    later = options.pop("later")
    try:
        first = decode_here(data, **options)
        send(answers, *answer_of(first))
        if not later:
            return
        with as_decode_errors(first.format):
            for rgb in later_pictures(data, first, options["background"]):
                send(answers, {"shape": rgb.shape}, np.ascontiguousarray(rgb).reshape(-1))
                if requests.read(1) != MORE:
                    return
        send(answers, {"end": True})
    except DecodeError as error:
        send(answers, {"reason": str(error.reason), "detail": str(error)})
    except MemoryError:
        send(answers, {"reason": Reason.RESOURCE, "detail": "not enough memory to decode it"})


def limit(what: int, value: int) -> None:
    """Lower a limit, where the system has it."""
    _, hard = resource.getrlimit(what)
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    try:
        resource.setrlimit(what, (soft, hard))
    except (ValueError, OSError) as error:
        print(f"decoder: limit {what} is not set: {error}", file=sys.stderr)
