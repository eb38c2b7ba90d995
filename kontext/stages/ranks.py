"""Working on several ranks: what a stage asks of them, and what each does that trains.

For training the stage saves its starting weights as the checkpoint of step 0, the ranks go on from
there, and the stage reads their last checkpoint: whatever the recipe starts from, ranks need to
know only the model's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file

from kontext.data.banks import map_folder
from kontext.data.latents import load_pairs
from kontext.launch import launch
from kontext.models.precision import compute_dtype
from kontext.models.trained import load_autoencoder, load_transformer
from kontext.models.transformer import FluxTransformer
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.peaks import peak_flops
from kontext.parallel.shard import shard
from kontext.stage import StageContext
from kontext.stages.pictures import some_images, training_images
from kontext.store.artifacts import Artifact, ArtifactStore, run_prefix
from kontext.store.objects import open_store
from kontext.train.autoencoder import AutoencoderMethod
from kontext.train.checkpoint import Checkpoints
from kontext.train.clock import Clock, Work
from kontext.train.distill import DistillMethod
from kontext.train.flow import FlowMethod, flow_lengths, validation
from kontext.train.guidance import GuidanceMethod
from kontext.train.loop import Measure, Method, Progress, fit
from kontext.train.perceptual import load_backbone
from kontext.train.pictures import PictureMethod
from kontext.train.rank import Job, Rank
from kontext.train.work import codec_work, flow_work, guidance_work, ladd_work, picture_work
from schemas.train_config import (
    AutoencoderConfig,
    DistillConfig,
    FinetuneConfig,
    GuardConfig,
    LaunchConfig,
    ParallelConfig,
)


class Launched(Protocol):
    """What the sections of all stages that work on ranks have in common."""

    @property
    def launch(self) -> LaunchConfig: ...
    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


class Trained(Launched, Protocol):
    """And those of the stages that train."""

    @property
    def guard(self) -> GuardConfig: ...
    @property
    def checkpoint_every(self) -> int: ...


def checkpoints_of(
    ctx: StageContext, config: Trained, name: str = "checkpoints", stage: str = "finetune"
) -> Checkpoints:
    """Where this stage's checkpoints lie: with its scratch files, or among its work in the store.

    Both are cleared when the stage is done.
    """
    url = str(ctx.scratch / name)
    if config.launch.checkpoints == "store":
        place, *options = ctx.store_url.split("?")
        folder = f"{place.rstrip('/')}/{run_prefix(stage, ctx.digest)}work/{name}"
        url = "?".join([folder, *options])
    return Checkpoints(url, config.checkpoint_every, config.launch.keep)


def on_ranks(
    ctx: StageContext,
    config: Launched,
    progress: Progress,
    work: Callable[..., None],
    *,
    name: str = "ranks",
    **arguments: Any,
) -> None:
    """Have every rank that the recipe asks for do `work`, and wait for them.

    Args:
        work: a module's function; told its `Rank`, the section, store and cache, and `arguments`.
        name: of the scratch folder where ranks leave word; one per work of a stage.

    Raises:
        KontextError: what the work refused.
        RanksError: ranks died too often, or could not be started.
        StallError: they made no step for too long.
    """
    job = Job(
        work=f"{work.__module__}:{work.__name__}",
        arguments={
            "config": config.model_dump(mode="json"),
            "store": ctx.store_url,
            "cache": str(ctx.home / "cache" / "blobs"),
            **arguments,
        },
        folder=ctx.scratch / name,
        replicas=config.launch.replicas,
        context=getattr(config, "parallel", ParallelConfig()).context,
        stall_seconds=config.launch.stall_seconds,
    )
    launch(job, config.launch, progress)


def train_on_ranks(
    ctx: StageContext,
    method: Method,
    config: Trained,
    checkpoints: Checkpoints,
    progress: Progress,
    work: Callable[..., None],
    *,
    name: str = "ranks",
    **arguments: Any,
) -> None:
    """Train to the last step on the ranks the recipe asks for; the method itself stays as it is.

    Does nothing where the recipe trains in this process, or where ranks have trained before.
    For `work`, `name`, `arguments` and errors see `on_ranks`.

    Raises:
        GateError: a rank's losses are not finite, and the recipe says to stop.
    """
    if config.launch.launcher == "in-process":
        return
    finished = checkpoints.finished()
    if finished and finished[-1] == method.total_steps:
        return
    if not finished:
        checkpoints.save(method.state)
        checkpoints.wait()
    told = {"ledger": method.state.ledger, "checkpoints": checkpoints.url, **arguments}
    on_ranks(ctx, config, progress, work, name=name, **told)


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
    artifact = open_input(store, cache, "encode", encoded)
    data = load_pairs(artifact, "train", world.device)
    method = FlowMethod(section, data, _unfilled(section), world)
    method.state.ledger = ledger
    products = compute_dtype(section.parallel.precision, world.device)
    measure = None
    if section.validate_every:
        held_out = load_pairs(artifact, "val", world.device)
        measure = Measure(section.validate_every, validation(method, held_out))
    _fit(rank, method, section, checkpoints, flow_work(section, data), products, measure)


def train_pictures(
    rank: Rank,
    *,
    config: dict[str, Any],
    store: str,
    cache: str,
    encoded: str,
    codec: str,
    autoencoder: dict[str, Any],
    ledger: dict[str, str],
    checkpoints: str,
) -> None:
    """A rank's part of the steps that finetune judges in pictures."""
    section, world = FinetuneConfig.model_validate(config), rank.world
    keep_freed_memory()
    data = load_pairs(open_input(store, cache, "encode", encoded), "train", world.device)
    judge = load_autoencoder(open_input(store, cache, "train-autoencoder", codec), world.device)
    features = load_backbone(AutoencoderConfig.model_validate(autoencoder), world.device)
    products = compute_dtype(section.parallel.precision, world.device)
    model = _unfilled(section).to(world.device)
    shard(model, section.parallel, world, products, flow_lengths(section, data))
    method = PictureMethod(section, data, model, judge, features, world)
    method.state.ledger = ledger
    _fit(rank, method, section, checkpoints, picture_work(section, data), products)


def train_guidance(
    rank: Rank,
    *,
    config: dict[str, Any],
    store: str,
    cache: str,
    encoded: str,
    teacher: str,
    ledger: dict[str, str],
    checkpoints: str,
) -> None:
    """A rank's part of guidance distillation; `teacher` is a file on a disk that all ranks see."""
    section, world = FinetuneConfig.model_validate(config), rank.world
    keep_freed_memory()
    data = load_pairs(open_input(store, cache, "encode", encoded), "train", world.device)
    model = FluxTransformer(section.shape)
    model.load_state_dict(load_file(teacher))
    method = GuidanceMethod(section, data, model.to(world.device), world)
    method.state.ledger = ledger
    products = compute_dtype(section.parallel.precision, world.device)
    _fit(rank, method, section, checkpoints, guidance_work(section, data), products)


def train_codec(
    rank: Rank,
    *,
    config: dict[str, Any],
    store: str,
    cache: str,
    shards: str,
    ledger: dict[str, str],
    checkpoints: str,
) -> None:
    """A rank's part of train-autoencoder."""
    section, world = AutoencoderConfig.model_validate(config), rank.world
    keep_freed_memory()
    images = training_images(
        section, open_input(store, cache, "shard", shards), rank.job.folder / "shards", world
    )
    features = load_backbone(section, world.device)
    method = AutoencoderMethod(section, images, features, world=world)
    method.state.ledger = ledger
    products = compute_dtype("auto", world.device)
    side = some_images(images, 1).shape[-1]
    _fit(rank, method, section, checkpoints, codec_work(section, side), products)


def train_student(
    rank: Rank,
    *,
    config: dict[str, Any],
    store: str,
    cache: str,
    encoded: str,
    teacher: str,
    edits: str,
    bank: str,
    ledger: dict[str, str],
    checkpoints: str,
) -> None:
    """A rank's part of distill; `edits` is the folder with the `bank` of the teacher's."""
    section, world = DistillConfig.model_validate(config), rank.world
    keep_freed_memory()
    data = load_pairs(open_input(store, cache, "encode", encoded), "train", world.device)
    model = load_transformer(
        open_input(store, cache, "finetune", teacher), "flow.safetensors", world.device
    )
    made = map_folder(Path(edits), bank)
    pairs = made["pairs"][torch.arange(len(made["pairs"]))]
    real = made["latents"].to(world.device)
    method = DistillMethod(section, data, pairs, real, model, world)
    method.state.ledger = ledger
    products = compute_dtype(section.parallel.precision, world.device)
    _fit(rank, method, section, checkpoints, ladd_work(section, data, model.shape), products)


def open_input(store: str, cache: str, stage: str, digest: str) -> Artifact:
    """An artifact as a rank reads it, which has no context of a stage."""
    return ArtifactStore(open_store(store), Path(cache)).open(stage, digest)


def _fit(
    rank: Rank,
    method: Method,
    section: Trained,
    checkpoints: str,
    work: Callable[[int], Work],
    products: torch.dtype,
    measure: Measure | None = None,
) -> None:
    """The loop, as a rank runs it."""
    world = rank.world
    peak = peak_flops(world.device, products)
    fit(
        method,
        checkpoints=Checkpoints(checkpoints, section.checkpoint_every, section.launch.keep, world),
        progress=rank.progress,
        policy=section.guard,
        clock=Clock(work, None if peak is None else peak * world.size, world.device),
        watchdog=rank.watchdog,
        measure=measure,
        stop=rank.stop,
    )


def _unfilled(config: FinetuneConfig) -> FluxTransformer:
    """A model of the stage's form, whose weights the checkpoint has."""
    model = FluxTransformer(config.shape)
    if config.lora_rank:
        from kontext.models.lora import LoraConfig, apply_lora

        apply_lora(model, LoraConfig(rank=config.lora_rank, seed=config.seed))
    return model
