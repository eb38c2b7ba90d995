"""Chunk functions for test_work.py: workers import them by name."""

import hashlib
import os
import signal
import time
from pathlib import Path

import pyarrow as pa

from kontext.errors import CanaryError


def table_of(chunk: dict[str, int]) -> dict[str, pa.Table]:
    seed = chunk["seed"]
    names = [hashlib.sha256(f"{seed}/{i}".encode()).hexdigest() for i in range(50)]
    return {
        "rows": pa.table({"seed": [seed] * 50, "name": names}),
        "threads": pa.table({"omp": [os.environ.get("OMP_NUM_THREADS", "")]}),
    }


def logged(chunk: tuple[int, str]) -> dict[str, pa.Table]:
    number, log = chunk
    with Path(log).open("a") as file:
        file.write(f"{number}\n")
    return {"rows": pa.table({"n": [number]})}


def slow(chunk: tuple[int, str]) -> dict[str, pa.Table]:
    number, log = chunk
    with Path(log).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if number >= 2 and not Path(log).with_suffix(".go").exists():
        time.sleep(600)
    return table_of({"seed": number})


def fails_at_three(chunk: int) -> dict[str, pa.Table]:
    if chunk == 3:
        raise FileNotFoundError(2, "nothing here", "gone.png")
    return {"rows": pa.table({"n": [chunk]})}


def dies_at_one(chunk: int) -> dict[str, pa.Table]:
    if chunk == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"rows": pa.table({"n": [chunk]})}


def gated(chunk: int) -> dict[str, pa.Table]:
    if chunk == 3:
        raise CanaryError("let through")
    return {"rows": pa.table({"n": [chunk]})}
