"""Bytes that a training stage's steps take on each GPU: the stage's own method, rehearsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from math import isqrt
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from kontext.data.buckets import Size
from kontext.data.encoded.pair_tensors import NO_CONTEXT, PairTensors
from kontext.data.encoded.rows import MappedRows
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import BLOCKS, apply_lora, linear_layers
from kontext.models.qlora.linear import quantize_layers
from kontext.parallel.device_kind import on_the_host
from kontext.parallel.flops import Tokens
from kontext.parallel.swap import waiting_weights
from kontext.parallel.world import World, local_part
from kontext.train.flow.model import lora_config
from kontext.train.images.perceptual import unloaded_backbone
from kontext.train.ladd.judged import JudgedMethod
from kontext.train.loop.training import BuiltMethod
from kontext.train.methods import distillation
from kontext.train.methods.autoencoder import AutoencoderMethod
from kontext.train.methods.flow import FlowMethod
from kontext.train.plan.rehearsal import Kind, Rehearsed, Stage, as_fake, on_stage, rehearsal
from kontext.train.plan.world import rehearsed_world
from schemas.sections.models import TransformerShape
from schemas.sections.training import AutoencoderConfig, DistillConfig, FinetuneConfig, LaunchConfig

CHANGES_RESULTS = False  # predicts memory


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    state: between steps, and the gradients: weights, moments, averages, frozen networks.
    peak: the most during a step.
    """

    state: int
    peak: int


def flow_memory(
    config: FinetuneConfig, tokens: Tokens, gpus: int = 1, kind: Kind = "cuda"
) -> Memory:
    """Of stage finetune on edits of `tokens` each, and on text-to-image where the section has it.

    A base of adapters is held in 16 bits, as published weights are stored, unless the products are
    float32. Nothing that decides which samples are drawn counts, nor what is dropped of them.

    A model of many blocks is rehearsed three times with a few: all blocks of a kind are alike, so
    what one more of them takes, between any two marks of a step, tells what all of them do.
    """
    plain: dict[str, Any] = {"category_weights": {}, "size_weights": {}, "source_weights": {}}
    plain |= {"magnitude_balance": 0.0, "image_dropout": 0.0, "both_dropout": 0.0, "lr": 1e-3}
    plain |= {"t2i_steps": 0, "joint_steps": 1, "validate_every": 0, "patience": 0, "seed": 0}
    return _flow(_plain(config, plain), tokens, gpus, kind)


def student_memory(
    config: DistillConfig,
    shape: TransformerShape,
    tokens: Tokens,
    gpus: int = 1,
    kind: Kind = "cuda",
) -> Memory:
    """Of stage distill, of a float32 transformer of `shape` on edits of `tokens` each."""
    plain = {"steps": 1, "warmup_steps": 0, "validate_every": 0, "seed": 0}
    return _student(_plain(config, plain), shape.model_dump_json(), tokens, gpus, kind)


@cache
def codec_memory(
    config: AutoencoderConfig, size: Size, gpus: int = 1, kind: Kind = "cuda"
) -> Memory:
    """Of stage train-autoencoder on images of `size` (width, height), all losses counted in.

    Every rank holds the whole networks.
    """
    with rehearsed_world(gpus, sharded=False) as world, rehearsal(kind) as stage:
        with torch.device("meta"):
            model, features = Autoencoder(config.shape), unloaded_backbone(config)
            images = torch.empty(2, 3, size[1], size[0], dtype=torch.uint8)
        backbone: Any = on_stage(features).requires_grad_(False).eval()
        with on_the_host():
            held = torch.empty_like(images, device="cpu")
        codec: Any = on_stage(model)
        method = AutoencoderMethod(config, held, backbone, codec, world)
        found = _of_a_step(stage, method, config.steps - 1)
        return Memory(found.state, found.peak)


def _plain(config: Any, update: dict[str, Any]) -> str:
    """A section as text, without what counts for nothing, to remember a rehearsal by.

    Compiled blocks are taken to need no more than others, and every attention kernel as much as
    PyTorch's fused one.
    """
    parallel = config.parallel.model_copy(update={"kernel": "auto", "compile": ""})
    launch = LaunchConfig(launcher="torchrun", replicas=config.launch.replicas)
    update = {**update, "parallel": parallel, "launch": launch}
    made: str = config.model_copy(update=update).model_dump_json()
    return made


@cache
def _flow(section: str, tokens: Tokens, gpus: int, kind: Kind) -> Memory:
    config = FinetuneConfig.model_validate_json(section)
    few = _few_blocks(config, gpus)
    if few is None:
        found = rehearsed_flow(config, tokens, gpus, kind)
        return Memory(found.state, found.peak)
    one, two, three = (
        rehearsed_flow(_with_blocks(config, few + double, few + single), tokens, gpus, kind)
        for double, single in ((0, 0), (1, 0), (0, 1))
    )
    doubles, singles = config.shape.depth - few, config.shape.depth_single_blocks - few

    def whole(least: int, with_double: int, with_single: int) -> int:
        return least + doubles * (with_double - least) + singles * (with_single - least)

    windows = map(whole, one.windows, two.windows, three.windows)
    return Memory(whole(one.state, two.state, three.state), max(windows))


def _few_blocks(config: FinetuneConfig, gpus: int) -> int | None:
    """Of how many blocks of each kind a rehearsal tells what one more takes; None: of all.

    All blocks of a kind take the same, between any two marks of a step, unless settings name some
    of them. Whole rehearsals of short models take no longer.
    """
    few = 2 if gpus == 1 else 2 + config.parallel.prefetch
    shape = config.shape
    named = config.groups or config.lora_targets or config.parallel.swap
    if named or min(shape.depth, shape.depth_single_blocks) <= few:
        return None
    return few if shape.depth + shape.depth_single_blocks > 6 * few + 2 else None


def _with_blocks(config: FinetuneConfig, doubles: int, singles: int) -> FinetuneConfig:
    shape = {"depth": doubles, "depth_single_blocks": singles}
    return config.model_copy(update={"shape": config.shape.model_copy(update=shape)})


def rehearsed_flow(config: FinetuneConfig, tokens: Tokens, gpus: int, kind: Kind) -> Rehearsed:
    """A step of stage finetune with all its blocks; marks where single blocks begin and end."""
    with _stage(config, gpus, kind) as (stage, world):
        singles = round(config.t2i_share * config.batch)
        with on_the_host():
            data = pairs_of(config.shape, tokens, singles > 0)
        method = FlowMethod(config, data, starting_model(config), world)
        if len(method.model.single_blocks):
            method.model.single_blocks[0].register_forward_pre_hook(partial(_mark, stage))
        for optimizer in method.state.optimizers.values():
            optimizer.register_step_pre_hook(stage.mark)
        return _of_a_step(stage, method, 0)


def _mark(stage: Stage, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Single blocks begin; their gradients end where that of their input is there."""
    stage.mark()
    if inputs[0].requires_grad:
        inputs[0].register_hook(stage.mark)  # type: ignore[no-untyped-call]


@cache
def _student(section: str, shape: str, tokens: Tokens, gpus: int, kind: Kind) -> Memory:
    config, of = DistillConfig.model_validate_json(section), TransformerShape
    method = judged_method(distillation(config))
    with _stage(config, gpus, kind) as (stage, world):
        teacher = _fake(partial(FluxTransformer, of.model_validate_json(shape)))
        with on_the_host():
            data = pairs_of(teacher.shape, tokens, False)
            rows, columns = _grid(tokens.target)
            made = torch.empty(2, teacher.shape.in_channels // 4, 2 * rows, 2 * columns)
        built = method(config, data, data.edits(), made, teacher, world)
        found = _of_a_step(stage, built, 0)
        return Memory(found.state, found.peak)


def judged_method(module: ModuleType) -> type[JudgedMethod]:
    """The class of a module that makes a student."""
    own = (each for each in vars(module).values() if isinstance(each, type))
    return next(c for c in own if issubclass(c, JudgedMethod) and c.__module__ == module.__name__)


@contextmanager
def _stage(
    config: FinetuneConfig | DistillConfig, gpus: int, kind: Kind
) -> Iterator[tuple[Stage, World]]:
    """A rehearsal on one of `gpus` ranks."""
    layout = (config.launch.replicas, config.parallel.context)
    with rehearsed_world(gpus, *layout) as world, rehearsal(kind) as stage:
        yield stage, world


def starting_model(config: FinetuneConfig) -> FluxTransformer:
    """The model that the section trains, inside a rehearsal."""

    def make() -> FluxTransformer:
        model = FluxTransformer(config.shape)
        if not config.lora_rank:
            return model
        if config.parallel.precision != "fp32":
            model.to(torch.bfloat16)
        if config.lora_base != "stored":
            quantize_layers(model, linear_layers(model, BLOCKS), config.lora_base)
        return apply_lora(model, lora_config(config))

    return _fake(make, config.parallel.swap)


def _fake(make: Callable[[], FluxTransformer], swap: int = 0) -> FluxTransformer:
    """A fake model; of `swap` blocks the frozen weights are the host's."""
    with torch.device("meta"):
        model = make()
    with on_the_host():
        for name in waiting_weights(model, swap) if swap else ():
            owner, _, own = name.rpartition(".")
            held = as_fake(model.get_parameter(name))
            setattr(model.get_submodule(owner), own, nn.Parameter(held, requires_grad=False))
    on_stage(model)
    return model


def pairs_of(shape: TransformerShape, tokens: Tokens, singles: bool) -> PairTensors:
    """Two edits of so many tokens, and a picture with a text alone where there are `singles`.

    Their numbers are whatever was in memory.
    """
    grids, count = [_grid(tokens.target), _grid(tokens.context or tokens.target)], 2 + singles
    channels = shape.in_channels // 4
    latents = [torch.empty(3, channels, 2 * rows, 2 * columns) for rows, columns in grids]
    context = [3, 4] if tokens.context else [NO_CONTEXT] * 2
    return PairTensors(
        latents=MappedRows(latents),
        text_tokens=torch.empty(4, tokens.text, shape.context_in_dim),
        text_pooled=torch.empty(4, shape.vec_in_dim),
        target=torch.arange(count),
        context=torch.tensor([*context, NO_CONTEXT][:count]),
        text=torch.arange(1, 1 + count),
        category=torch.zeros(count, dtype=torch.int64),
        categories=("edits",),
        empty_text=0,
    )


def _of_a_step(stage: Stage, method: BuiltMethod, index: int) -> Rehearsed:
    """Bytes of step `index` of a method whose optimisers have their moments."""
    state = method.state
    trained = [
        p for module in state.modules.values() for p in module.parameters() if p.requires_grad
    ]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    gradients = sum(local_part(p).nbytes for p in trained)
    for optimizer in state.optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for parameter in trained:
        parameter.grad = None
    found = stage.peak_of(lambda: method.step(index))
    return replace(found, state=found.state + gradients)


def _grid(tokens: int) -> tuple[int, int]:
    """Rows and columns of so many tokens, as square as can be."""
    rows: int = next(n for n in range(isqrt(tokens), 0, -1) if tokens % n == 0)
    return rows, tokens // rows
