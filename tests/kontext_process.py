"""`kontext` in processes of its own that start at once: forked from one that has imported it.

An interpreter that imports what the stages up to finetune need takes ten seconds of a processor.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from multiprocessing.connection import Connection
from typing import Any

from flows import cli
from kontext.stages import STAGES

# what stages import when they need it, and torch's first optimiser
_LATER = ("cv2", "duckdb", "faiss", "onnxruntime", "open_clip", "torch._dynamo")


def start(words: Sequence[str], environment: Mapping[str, str]) -> tuple[Any, TextIOWrapper]:
    """`kontext words…` with exactly these variables: the process, and all that it says."""
    context = multiprocessing.get_context("forkserver")
    # heard where no other test of this process has started the server: else a start takes longer
    context.set_forkserver_preload([__name__, *_LATER, *(s.module for s in STAGES.values())])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_kontext, args=(list(words), dict(environment), send))
    process.start()
    send.close()
    return process, os.fdopen(os.dup(receive.fileno()), errors="replace")


def _kontext(words: list[str], environment: dict[str, str], said: Connection) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number in (1, 2):
        os.dup2(said.fileno(), number)
    said.close()
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - to the end
    sys.argv = ["kontext", *words]
    cli.main()
