"""Tiny runs of the three methods in processes that kill themselves with SIGKILL at a given point.

The processes are forked from a server that imported torch and nothing else has run in: a start
costs milliseconds, and each is still a process of its own with nothing in common but the files.
Several ranks are several such processes; where one dies the others are killed, as launchers do.
"""

import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Mapping
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimiser imports it: once here rather than in every process
import torch.distributed.fsdp  # and this is imported with the first shard
import torch.distributed.tensor

import kontext.parallel.checkpoint
from kontext.data.encoded.rows import MappedRows
from kontext.errors import WeightsError
from kontext.parallel.world import World, join, leave
from kontext.train.loop import fit as loop
from kontext.train.loop.checkpoint import Checkpoints
from kontext.train.loop.clock import COLUMNS
from kontext.train.methods.autoencoder import AutoencoderMethod
from kontext.train.methods.flow import FlowMethod
from kontext.train.methods.ladd import LaddMethod
from schemas.sections.models import AutoencoderShape
from schemas.sections.training import AutoencoderConfig, DistillConfig
from tests.train.toy import toy_config, toy_model, toy_pairs

STEPS = 12
# the third time that a checkpoint of one rank reaches the disk it is the manifest that does
SYNCS = {"in the save": 1, "in the manifest": 3}
POINTS = ("before the step", "before the save", *SYNCS, "after the step")
Kill = tuple[int, str]  # a step and a point of POINTS; the rank is the step's, modulo the ranks


def flow(world: World | None = None, optimizer: str = "muon") -> FlowMethod:
    """Both phases, both optimisers; targets and references of several sizes."""
    config = toy_config(
        optimizer=optimizer,
        t2i_steps=4,
        joint_steps=STEPS - 4,
        text_dropout=0.3,
        parallel={"precision": "fp32"},
    )
    return FlowMethod(config, toy_pairs(references=((3,), (4, 5)), mixed=True), toy_model(), world)


def flow_adamw(world: World | None = None) -> FlowMethod:
    """The flow without Muon, whose Newton-Schulz rounds to bf16."""
    return flow(world, "adamw")


def autoencoder(world: World | None = None) -> AutoencoderMethod:
    """The discriminator starts half way."""
    shape = AutoencoderShape(ch=16, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4)
    config = AutoencoderConfig(
        shape=shape, steps=STEPS, batch=2, warmup=2, disc_start=6, disc_channels=8
    )
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return AutoencoderMethod(config, images, None)


def ladd(world: World | None = None) -> LaddMethod:
    """Heads and student, with warm-up, R1 and negatives, on edits of several sizes."""
    data = toy_pairs(mixed=True)
    edits = MappedRows([data.latents[torch.tensor([row])] * 0.9 for row in range(8)])
    config = DistillConfig(steps=STEPS, warmup_steps=4, batch=4, lr_student=1e-3, taps=(0, 2))
    return LaddMethod(config, data, data.edits(), edits, toy_model())


METHODS: dict[str, Callable[[World | None], Any]] = {
    "flow": flow,
    "flow adamw": flow_adamw,
    "autoencoder": autoencoder,
    "ladd": ladd,
}


@cache
def processes() -> Any:
    """The multiprocessing context whose processes start in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.broken_runs"])
    return context


def run(
    method: str,
    folder: Path,
    every: int,
    kill: Kill | None = None,
    ranks: int = 1,
    train: Callable[..., None] | None = None,
) -> list[int]:
    """One attempt of a run in `folder`, killed at a point if it comes there; exit codes by rank.

    Args:
        train: what a rank runs in place of `_train`, with the same arguments.
    """
    port = free_port()
    started = [
        processes().Process(
            target=train or _train, args=(method, folder, every, kill, rank, ranks, port)
        )
        for rank in range(ranks)
    ]
    for process in started:
        process.start()
    while running := [process for process in started if process.exitcode is None]:
        assert wait([process.sentinel for process in running], timeout=120), "the run hangs"
        if any(process.exitcode not in (None, 0) for process in started):
            for process in started:
                process.kill()
    return [process.exitcode for process in started]


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def told(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """(step, losses) of every step that any process of the run finished, in the order of time."""
    lines = (folder / "told.jsonl").read_text().splitlines()
    return [(row["step"], row["losses"]) for row in map(json.loads, lines)]


def everything(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run, whole: every tensor by its path, and the record."""
    checkpoints = Checkpoints(folder / "checkpoints")
    manifest = checkpoints._newest()
    assert manifest is not None
    tensors = {
        path: torch.empty(found["size"], dtype=found["dtype"])
        for path, found in manifest["tensors"].items()
    }
    kontext.parallel.checkpoint.read(tensors, checkpoints._store, manifest, World())
    record = dict(manifest["record"])
    record.pop("clock")  # seconds are the one thing that may differ
    return {"tensors": tensors, **record}


def in_world(rank: int, ranks: int, port: int) -> World:
    """Join the other processes; a world of one where there are none."""
    torch.set_num_threads(1)
    if ranks == 1:
        return World()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    return join()


def _train(
    name: str, folder: Path, every: int, kill: Kill | None, rank: int, ranks: int, port: int
) -> None:
    world = in_world(rank, ranks, port)
    method = METHODS[name](world)
    checkpoints = Checkpoints(folder / "checkpoints", every, world=world)
    if kill is not None and kill[0] % ranks == rank:
        _arm(method, checkpoints, *kill)
        armed = kill[0] if kill[1] == "before the save" else None
    else:
        armed = None

    with (folder / "told.jsonl").open("a") as file:

        def tell(done: int, total: int, numbers: Mapping[str, float | None]) -> None:
            if world.is_leader:
                losses = {name: value for name, value in numbers.items() if name not in COLUMNS}
                file.write(json.dumps({"step": done - 1, "losses": losses}) + "\n")
                file.flush()
            if done - 1 == armed:
                _die()

        loop.fit(method, checkpoints=checkpoints, progress=tell)
    if ranks > 1:
        leave()


def train_on_as_many_ranks_only(*rank: Any) -> None:
    """`_train` with a fault: a checkpoint of another number of ranks is refused."""
    real = Checkpoints.restore

    def restore(self: Checkpoints, state: Any) -> bool:
        parts = [key for key in self._store.list("step-") if "/rank-" in key]
        newest = [key for key in parts if key.startswith(max(parts).partition("/")[0])]
        if len(newest) not in (0, self.world.size):
            raise WeightsError("the checkpoint is of another number of ranks")
        return real(self, state)

    Checkpoints.restore = restore  # type: ignore[method-assign]  # of a process that ends with it
    _train(*rank)


def _arm(method: Any, checkpoints: Checkpoints, step: int, point: str) -> None:
    real_step, real_save, real_sync = method.step, checkpoints.save, os.fsync
    syncs: list[int] = []

    def dying_step(index: int) -> Mapping[str, float]:
        if index == step and point == "before the step":
            _die()
        losses: Mapping[str, float] = real_step(index)
        if index == step and point == "after the step":
            _die()
        return losses

    def marking_save(state: Any) -> None:
        checkpoints.wait()
        if state.step == step + 1 and point in SYNCS:
            syncs.append(0)
        real_save(state)

    def dying_sync(descriptor: int) -> None:
        if syncs:
            syncs[0] += 1
            if syncs[0] == SYNCS[point]:
                _die()  # what was written has not got its name
        real_sync(descriptor)

    method.step, checkpoints.save = dying_step, marking_save  # type: ignore[method-assign]
    os.fsync = dying_sync


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
