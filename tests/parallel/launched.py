"""What the ranks of the launch tests do, in processes of their own.

Heavy modules are imported where they are needed: a launcher starts several such processes.
"""

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kontext.errors import DivergedError
from kontext.parallel.ranks.rank import Job, Rank, run
from kontext.parallel.world import World
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.fit import fit
from kontext.train.loop.state import TrainState

STEPS = 12


class Summing:
    """A method with one weight and no optimiser: what it loses is summed over the ranks."""

    def __init__(self, world: World | None = None) -> None:
        self.world, self.total_steps = world or World(), STEPS
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.model.weight)
        self.state = TrainState({"model": self.model}, {}, {})

    def step(self, index: int) -> Mapping[str, float]:
        """The weight times a batch of four numbers, of which each rank has its rows."""
        rows = torch.tensor(self.world.rows(4)) + index
        weight = self.model.weight.detach()
        loss = self.world.sum({"loss": float((weight * rows).sum())})
        weight -= 0.01 * loss["loss"]
        return loss


def train(rank: Rank, *, folder: str, die_at: int = -1, wait_at: int = -1) -> None:
    """`Summing`; rank 1 kills itself once after `die_at` steps, all wait for SIGTERM later."""
    method, died = Summing(rank.world), Path(folder) / "died"

    def progress(done: int, total: int, losses: Mapping[str, float | None]) -> None:
        rank.progress(done, total, losses)
        if done == die_at and rank.world.rank == 1 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if done == wait_at:
            assert rank._ended.wait(300)

    with (Path(folder) / "pids").open("a") as file:
        file.write(json.dumps([rank.world.rank, os.getpid()]) + "\n")
    fit(
        method,
        checkpoints=Checkpoints(Path(folder) / "checkpoints", every=2, world=rank.world),
        progress=progress,
        watchdog=rank.watchdog,
        stop=rank.stop,
    )


def hang(rank: Rank) -> None:
    """Rank 1 waits in its fourth step for what never comes; rank 0 waits for rank 1."""
    from tests.train.broken_runs import flow_adamw

    method = flow_adamw(rank.world)
    real: Any = method.step

    def step(index: int) -> Mapping[str, float]:
        if index == 3:
            rank.watchdog.seconds = 5  # the steps before may take their time
            if rank.world.rank == 1:
                wait_for_what_never_comes()
        losses: Mapping[str, float] = real(index)
        return losses

    method.step = step  # type: ignore[method-assign]
    fit(method, watchdog=rank.watchdog, stop=rank.stop)


def wait_for_what_never_comes() -> None:
    time.sleep(600)


def refuse(rank: Rank) -> None:
    raise DivergedError("loss is not finite")


def as_rank(job: Job, rank: int, ranks: int, port: int) -> None:
    """A process that is one rank of a job, without a launcher."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    run(job)
