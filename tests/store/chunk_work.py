"""Chunks and their functions for the tests of chunk work: workers import them by name."""

import hashlib
import logging
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
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


@dataclass(frozen=True)
class Items:
    """Numbers of which some cost workers: `deadly` always, `once` until their file is there."""

    numbers: tuple[int, ...]
    deadly: int = -1
    once: int = -1
    folder: str = ""
    wanted: str = ""  # a file that the work reads

    def files(self) -> Iterable[Path]:
        return [Path(self.wanted)] if self.wanted else []

    def halves(self) -> "tuple[Items, Items] | None":
        middle = len(self.numbers) // 2
        low, high = self.numbers[:middle], self.numbers[middle:]
        return (replace(self, numbers=low), replace(self, numbers=high)) if middle else None

    def given_up(self, why: str) -> dict[str, pa.Table]:
        return _numbers([-number for number in self.numbers])


def _numbers(numbers: list[int]) -> dict[str, pa.Table]:
    return {"rows": pa.table({"n": numbers})}


def counted(chunk: Items) -> dict[str, pa.Table]:
    """The numbers, each with a line of the log; a killer kills its worker."""
    for number in chunk.numbers:
        if number == chunk.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == chunk.once and not (died := Path(chunk.folder, f"died-{number}")).exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    logging.getLogger("kontext.test").info("numbers from %d on", chunk.numbers[0])
    return _numbers(list(chunk.numbers))


def greedy(chunk: Items) -> dict[str, pa.Table]:
    """The deadly number takes 3 GB."""
    for number in chunk.numbers:
        size = 3_000_000_000 if number == chunk.deadly else 1000
        np.ones(size, np.uint8)
    return _numbers(list(chunk.numbers))
