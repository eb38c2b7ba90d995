"""Finetune on several ranks: what the stage asks of them, and what each of them does.

The stage saves its starting weights as the checkpoint of step 0, the ranks go on from there, and
the stage reads their last checkpoint: whatever the recipe starts from, ranks need to know only the
model's shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kontext.data.latents import load_pairs
from kontext.launch import launch
from kontext.models.precision import compute_dtype
from kontext.models.transformer import FluxTransformer
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.peaks import peak_flops
from kontext.stage import StageContext
from kontext.store.artifacts import ArtifactStore, run_prefix
from kontext.store.objects import open_store
from kontext.train.checkpoint import Checkpoints
from kontext.train.clock import Clock
from kontext.train.flow import FlowMethod
from kontext.train.loop import Progress, fit
from kontext.train.rank import Job, Rank
from kontext.train.work import flow_work
from schemas.recipes import FinetuneConfig


def checkpoints_of(
    ctx: StageContext, config: FinetuneConfig, name: str = "checkpoints"
) -> Checkpoints:
    """Where this stage's checkpoints lie: with its scratch files, or among its work in the store.

    Both are cleared when the stage is done.
    """
    url = str(ctx.scratch / name)
    if config.launch.checkpoints == "store":
        place, *options = ctx.store_url.split("?")
        folder = f"{place.rstrip('/')}/{run_prefix('finetune', ctx.digest)}work/{name}"
        url = "?".join([folder, *options])
    return Checkpoints(url, config.checkpoint_every, config.launch.keep)


def train_on_ranks(
    ctx: StageContext, method: FlowMethod, checkpoints: Checkpoints, progress: Progress
) -> None:
    """Train to the last step on the ranks the recipe asks for; the method itself stays as it is.

    Does nothing where the recipe trains in this process, or where ranks have trained before.

    Raises:
        RanksError: ranks died too often, or could not be started.
        StallError: they made no step for too long.
        GateError: a rank's losses are not finite, and the recipe says to stop.
    """
    config = method.config
    if config.launch.launcher == "in-process":
        return
    finished = checkpoints.finished()
    if finished and finished[-1] == method.total_steps:
        return
    if not finished:
        checkpoints.save(method.state)
        checkpoints.wait()
    encoded = ctx.inputs["encode"]
    job = Job(
        work=f"{__name__}:train",
        arguments={
            "config": config.model_dump(mode="json"),
            "store": ctx.store_url,
            "cache": str(ctx.home / "cache" / "blobs"),
            "encoded": encoded.digest,
            "ledger": method.state.ledger,
            "checkpoints": checkpoints.url,
        },
        folder=ctx.scratch / "ranks",
        replicas=config.launch.replicas,
        stall_seconds=config.launch.stall_seconds,
    )
    launch(job, config.launch, progress)


def train(
    rank: Rank,
    *,
    config: dict[str, Any],
    store: str,
    cache: str,
    encoded: str,
    ledger: dict[str, str],
    checkpoints: str,
) -> None:
    """A rank's part of finetune."""
    section, world = FinetuneConfig.model_validate(config), rank.world
    keep_freed_memory()
    artifact = ArtifactStore(open_store(store), Path(cache)).open("encode", encoded)
    data = load_pairs(artifact, "train", world.device)
    method = FlowMethod(section, data, _unfilled(section), world)
    method.state.ledger = ledger
    products = compute_dtype(section.parallel.precision, world.device)
    peak = peak_flops(world.device, products)
    fit(
        method,
        checkpoints=Checkpoints(checkpoints, section.checkpoint_every, section.launch.keep, world),
        progress=rank.progress,
        policy=section.guard,
        clock=Clock(
            flow_work(section, data), None if peak is None else peak * world.size, world.device
        ),
        watchdog=rank.watchdog,
        stop=rank.stop,
    )


def _unfilled(config: FinetuneConfig) -> FluxTransformer:
    """A model of the stage's form, whose weights the checkpoint has."""
    model = FluxTransformer(config.shape)
    if config.lora_rank:
        from kontext.models.lora import LoraConfig, apply_lora

        apply_lora(model, LoraConfig(rank=config.lora_rank, seed=config.seed))
    return model
