"""What a recipe's training will take, before it is started: memory, operations, time, switches.

Memory is counted by a rehearsal of the stage's own step for one of the GPUs, sharded over all of
them as FSDP2 does (`kontext.train.plan`), and a reserve. Parameters and operations are counted from
the shapes. Time is operations over a share of the device's peak; where the peak is not known,
neither is the time.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, get_args

import torch
from torch import nn

from kontext.data.buckets import Buckets, Size
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import BLOCKS, linear_layers
from kontext.parallel.flops import Tokens, peak_of, step_flops
from kontext.parallel.recompute import Recompute
from kontext.train.methods import distillation
from kontext.train.methods.autoencoder import codec_work
from kontext.train.plan.memory import Memory, codec_memory, flow_memory, student_memory
from schemas.recipe import Recipe
from schemas.sections.models import TransformerShape
from schemas.sections.training import AutoencoderConfig, DistillConfig, FinetuneConfig

CHANGES_RESULTS = False  # predicts time and memory

MODES: tuple[Recompute, ...] = get_args(Recompute)
LORA_BASES: tuple[str, ...] = get_args(FinetuneConfig.model_fields["lora_base"].annotation)
_RESERVE = 1.5  # GiB for CUDA's context, kernels' workspaces and fragments
_GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What there is: `gpus` devices of `memory` GiB; `name` as its driver tells it."""

    gpus: int
    memory: float
    name: str = "H200"
    share: float = 0.4  # of the peak that is reached

    @property
    def speed(self) -> float | None:
        """Operations per second that all of them reach; None where the peak is not known."""
        peak = peak_of(self.name, torch.bfloat16)
        return None if peak is None else self.gpus * peak * self.share


@dataclass(frozen=True)
class Estimate:
    """What one training stage will take on one machine."""

    stage: str
    parameters: int
    steps: int
    flops: int  # of a step of all ranks
    state_gib: float  # per GPU: masters, gradients, optimiser, averages, frozen networks
    recompute: Recompute
    activations_gib: float = 0.0  # per GPU: what a step takes beside, gathered weights too
    step_seconds: float | None = None
    fits: bool = True
    advice: str = "the recipe fits as it is"

    @property
    def memory_gib(self) -> float:
        """Per GPU, all in all."""
        return self.state_gib + self.activations_gib + _RESERVE

    @property
    def days(self) -> float | None:
        """Of the whole stage."""
        return None if self.step_seconds is None else self.step_seconds * self.steps / 86_400


def estimates(recipe: Recipe, machine: Machine) -> list[Estimate]:
    """Of the training stages that the recipe has, for the largest images."""
    sizes = Buckets.of(recipe.ingest).sizes
    target = max(width * height for width, height in sizes) // 16**2
    tokens = Tokens(recipe.encode.text_length, target, target)
    crop = recipe.autoencoder.crop or (min(map(min, sizes)) if len(sizes) > 1 else 0)
    found = []
    if not recipe.weights.autoencoder or recipe.autoencoder.given != "nothing":
        size = (crop, crop) if crop else sizes[0]
        found.append(estimate_autoencoder(recipe.autoencoder, size, machine))
    found.append(estimate_flow(recipe.finetune, tokens, machine))
    if recipe.distill.steps:
        shape = recipe.finetune.shape
        found.append(estimate_student(recipe.distill, shape, tokens, machine))
    return found


def compared(estimate: Estimate, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Prediction and measurement of a stage that has run, from its manifest's metrics."""
    memory = metrics.get("step_memory_mib")
    return {
        "stage": estimate.stage,
        "predicted_step_seconds": estimate.step_seconds,
        "measured_step_seconds": metrics.get("step_seconds"),
        "predicted_memory_gib": estimate.memory_gib,
        "measured_memory_gib": None if memory is None else float(memory) / 1024,
        "measured_utilisation": metrics.get("step_utilisation"),
    }


def estimate_autoencoder(config: AutoencoderConfig, size: Size, machine: Machine) -> Estimate:
    """Stage train-autoencoder on images of `size` (width, height) in pixels."""
    work = codec_work(config, size)
    total = sum(work(step).flops or 0 for step in range(config.steps))
    base = Estimate(
        stage="train-autoencoder",
        parameters=_count(lambda: Autoencoder(config.shape)),
        steps=config.steps,
        flops=total // max(1, config.steps),
        state_gib=0.0,
        recompute="none",
    )
    made = _with_memory(base, codec_memory(config, size, machine.gpus), machine)
    # every rank holds the whole codec: the adaptive weight needs whole gradients
    if not made.fits:
        made = replace(made, advice="take a smaller autoencoder.batch")
    return _timed(made, machine)


def estimate_flow(config: FinetuneConfig, tokens: Tokens, machine: Machine) -> Estimate:
    """Stage finetune on edits of `tokens` each."""
    adapters = _adapter_count(config)
    single = Tokens(tokens.text, tokens.target)
    singles = round(config.t2i_share * config.batch)

    def cost(of: Tokens, samples: int) -> int:
        found = step_flops(config.shape, of, samples)
        return found.of_adapters if adapters else found.training

    joint = cost(tokens, config.batch - singles) + cost(single, singles)
    first = cost(single, config.batch)
    steps = config.t2i_steps + config.joint_steps
    base = Estimate(
        stage="finetune",
        parameters=_count(lambda: FluxTransformer(config.shape)) + adapters,
        steps=steps,
        flops=(config.t2i_steps * first + config.joint_steps * joint) // max(1, steps),
        state_gib=0.0,
        recompute=config.parallel.recompute,
    )

    def at(section: FinetuneConfig) -> Estimate:
        found = replace(base, recompute=section.parallel.recompute)
        return _with_memory(found, flow_memory(section, tokens, machine.gpus), machine)

    rows = ceil(config.batch / max(1, machine.gpus // config.parallel.context))
    return _with_advice(config, at, rows, machine)


def estimate_student(
    config: DistillConfig, shape: TransformerShape, tokens: Tokens, machine: Machine
) -> Estimate:
    """Stage distill of a transformer of `shape` on edits of `tokens` each."""
    base = Estimate(
        stage="distill",
        parameters=_count(lambda: FluxTransformer(shape)),
        steps=config.steps,
        flops=distillation(config).step_flops(config, shape, tokens),
        state_gib=0.0,
        recompute=config.parallel.recompute,
    )

    def at(section: DistillConfig) -> Estimate:
        found = replace(base, recompute=section.parallel.recompute)
        return _with_memory(found, student_memory(section, shape, tokens, machine.gpus), machine)

    return _with_advice(config, at, max(1, config.batch // machine.gpus), machine)


def _with_memory(made: Estimate, memory: Memory, machine: Machine) -> Estimate:
    state = memory.state / _GIB
    found = replace(made, state_gib=state, activations_gib=memory.peak / _GIB - state)
    return replace(found, fits=found.memory_gib <= machine.memory)


def _with_advice(
    config: Any, at: Callable[[Any], Estimate], rows: int, machine: Machine
) -> Estimate:
    """The stage as the recipe has it; where that does not fit, the first switches that would do.

    Args:
        at: the stage under a section.
        rows: samples of a batch that a GPU computes.
    """
    made = at(config)
    if made.fits:
        return _timed(made, machine)
    for state in _states(config):
        lighter = at(_changed(config, state))
        if lighter.state_gib + _RESERVE > machine.memory:
            continue
        for activations in ({}, *_switches(config, rows)):
            changes = {**state, **activations}
            if at(_changed(config, changes)).fits:
                changes = _fewest_parts(config, changes, at)
                return _timed(replace(made, advice=_told(config, changes, at)), machine)
    advice = f"set {made.stage}.parallel.recompute=full and a smaller batch, or more GPUs"
    if made.state_gib + _RESERVE > machine.memory:
        advice = f"the state alone is too large: more GPUs than {machine.gpus}"
    return _timed(replace(made, advice=advice), machine)


def _states(config: Any) -> list[dict[str, Any]]:
    """What can be switched to hold less between steps, gentlest first: settings of the section."""
    if not isinstance(config, FinetuneConfig):
        return [{}]
    if config.lora_rank:
        bases = [base for base in LORA_BASES if base not in ("stored", config.lora_base)]
        return [{}, *({"lora_base": base} for base in bases)]
    if config.optimizer == "adamw-8bit":
        return [{}]
    return [{}, {"optimizer": "adamw-8bit"}]


def _switches(config: Any, rows: int) -> list[dict[str, Any]]:
    """What can be switched to take less during a step, gentlest first."""
    name = "parallel.recompute"
    found: list[dict[str, Any]] = [
        {name: mode} for mode in MODES[MODES.index(config.parallel.recompute) + 1 :]
    ]
    parts = {"accumulate": rows} if rows > config.accumulate else {}
    if parts:
        found.append({name: "full", **parts})
    if not config.parallel.offload:
        found.append({name: "full", **parts, "parallel.offload": True})
    return found


def _fewest_parts(
    config: Any, changes: Mapping[str, Any], at: Callable[[Any], Estimate]
) -> dict[str, Any]:
    """The same changes, with a batch in as few parts as fit, where it is to be in parts."""
    rows = changes.get("accumulate", 0)
    # the fewest parts for each number of rows at once
    counts = sorted({ceil(rows / ceil(rows / n)) for n in range(config.accumulate + 1, rows + 1)})
    if not counts:
        return dict(changes)

    def fits(parts: int) -> bool:
        return at(_changed(config, {**changes, "accumulate": parts})).fits

    return {**changes, "accumulate": counts[bisect_left(counts, True, key=fits)]}


def _told(config: Any, changes: Mapping[str, Any], at: Callable[[Any], Estimate]) -> str:
    """The advice to make these changes."""
    then = at(_changed(config, changes))
    values = {key: str(v).lower() if v is True else v for key, v in changes.items()}
    said = " and ".join(f"{then.stage}.{key}={value}" for key, value in values.items())
    return f"set {said}: {then.memory_gib:.1f} GiB then"


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """A section with settings changed, which may be its parallel part's."""
    own = {key: value for key, value in changes.items() if "." not in key}
    inner = {key.partition(".")[2]: v for key, v in changes.items() if "." in key}
    parallel = config.parallel.model_copy(update=inner)
    return config.model_copy(update={**own, "parallel": parallel})


def _timed(made: Estimate, machine: Machine) -> Estimate:
    """With the seconds of a step, where the machine's peak is known."""
    if machine.speed is None:
        return made
    again = {"none": 1.0, "selective": 7 / 6, "full": 4 / 3}[made.recompute]
    return replace(made, step_seconds=made.flops * again / machine.speed)


def _adapter_count(config: FinetuneConfig) -> int:
    """Parameters of the adapters that the section trains; 0 where it trains all weights."""
    if not config.lora_rank:
        return 0
    with torch.device("meta"):
        model = FluxTransformer(config.shape)
    names = linear_layers(model, config.lora_targets or BLOCKS)
    sizes = (model.get_parameter(f"{name}.weight").shape for name in names)
    return config.lora_rank * sum(rows + columns for rows, columns in sizes)


def _count(make: Callable[[], nn.Module]) -> int:
    """Parameters of a model."""
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())
