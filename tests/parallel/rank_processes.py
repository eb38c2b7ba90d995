"""Runs a function on several gloo ranks, each a process of its own."""

import io
import os
import traceback
from collections.abc import Callable
from typing import Any

import torch

from kontext.errors import RanksError
from kontext.parallel.ranks.launch import ranks
from kontext.parallel.ranks.rank import Job
from schemas.sections.training import LaunchConfig
from tests.parallel.launched import as_rank
from tests.train.broken_runs import free_port, processes


def run_ranks(work: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    """`work(world, *arguments)` on every rank; returns the results by rank."""
    results, port = processes().Queue(), free_port()
    ranks = [
        processes().Process(target=_rank, args=(work, rank, size, port, results, arguments))
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    found = dict(_read(results.get(timeout=300)) for _ in ranks)
    for rank in ranks:
        rank.join()
    failed = [text for text in found.values() if isinstance(text, Failure)]
    assert not failed, "\n".join(failed)
    return [found[rank] for rank in range(size)]


def forked_ranks(job: Job, config: LaunchConfig, stop: Callable[[], bool]) -> None:
    """A job's ranks in torchrun's place (`launch._torchrun`): forked from a server that has
    imported torch, where torchrun starts interpreters that import it. Nobody is started again.
    """
    port, size = free_port(), ranks(config)
    started = [
        processes().Process(target=as_rank, args=(job, rank, size, port)) for rank in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    if any(process.exitcode for process in started):
        raise RanksError(f"the ranks ended with {[process.exitcode for process in started]}")


class Failure(str):
    """A rank's traceback."""


def _rank(
    work: Callable[..., Any], rank: int, size: int, port: int, results: Any, arguments: Any
) -> None:
    from kontext.parallel.world import join, leave

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        results.put(_written((rank, work(join(), *arguments))))
        leave()
    except BaseException:  # noqa: BLE001 - the parent raises it
        results.put(_written((rank, Failure(traceback.format_exc()))))


def _written(value: Any) -> bytes:
    """As bytes: tensors in shared memory would go with the rank that made them."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _read(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)
