"""What a recipe's training will take, before it is started: memory, operations, time, switches.

Parameters and operations are counted from the shapes. Memory is what fp32 masters, gradients,
optimiser and averages take (with adapters theirs alone, and 2 bytes a parameter of the base),
sharded over the ranks as FSDP2 does, plus activations: what autograd
keeps is measured on small blocks of the same proportions and scaled by tokens and width. Time is
operations over a share of the device's peak; where the peak is not known, neither is the time.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from typing import Any, get_args

import torch
from torch import Tensor, nn

from kontext.data.buckets import Buckets, Size
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import BLOCKS, LoraConfig, apply_lora, linear_layers
from kontext.parallel.attention import use_kernel
from kontext.parallel.flops import Tokens, peak_of, step_flops
from kontext.parallel.recompute import Recompute
from kontext.train.methods import distillation
from kontext.train.methods.autoencoder import codec_work
from kontext.train.start.base import base_bytes
from schemas.recipe import Recipe
from schemas.sections.models import TransformerShape
from schemas.sections.training import AutoencoderConfig, DistillConfig, FinetuneConfig

CHANGES_RESULTS = False  # predicts time and memory

MODES: tuple[Recompute, ...] = get_args(Recompute)
MASTER, GRADIENT, GATHERED = 4, 4, 2  # bytes a parameter
# Muon keeps one momentum; what stays with AdamW, or in float32 beside 8 bits, is small
_OPTIMISER = {"adamw": 8, "adamw-8bit": 2, "adamw-bf16": 4, "muon": 4}
_EMA = 4
_RESERVE = 1.5  # GiB for CUDA's context, kernels' workspaces and fragments
_GIB = 2**30
_WIDTH = 64  # of the blocks that are measured


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
    state_gib: float  # per GPU: masters, gradients, optimiser, averages, frozen copies
    recompute: Recompute
    activations_gib: float = 0.0  # per GPU
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
    count = _count(lambda: Autoencoder(config.shape))
    work = codec_work(config, size)
    total = sum(work(step).flops or 0 for step in range(config.steps))
    # the widest maps, at full size, some thirty of them, twice: what was kept for 128 channels
    pixels = size[0] * size[1]
    kept = 60 * 2 * config.shape.ch * pixels * -(-config.batch // machine.gpus)
    made = Estimate(
        stage="train-autoencoder",
        parameters=count,
        steps=config.steps,
        flops=total // max(1, config.steps),
        state_gib=_state(count, config.optimizer, 1),
        recompute="none",
        activations_gib=kept / _GIB,
    )
    # every rank holds the whole codec: the adaptive weight needs whole gradients
    if made.memory_gib > machine.memory:
        made = replace(made, fits=False, advice="take a smaller autoencoder.batch")
    return _timed(made, machine)


def estimate_flow(config: FinetuneConfig, tokens: Tokens, machine: Machine) -> Estimate:
    """Stage finetune on edits of `tokens` each."""
    count = _count(lambda: FluxTransformer(config.shape))
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
        parameters=count + adapters,
        steps=steps,
        flops=(config.t2i_steps * first + config.joint_steps * joint) // max(1, steps),
        state_gib=_flow_state(config, count, adapters, machine) + _gathered(config, machine),
        recompute=config.parallel.recompute,
    )
    sharing = config.parallel.context
    rows = -(-config.batch // (machine.gpus // sharing or 1))
    # what a GPU keeps at once: its rows, part by part, of sequences that it may share
    kept = -(-rows // config.accumulate) / sharing
    offload = config.parallel.offload
    return _with_switches(base, config.shape, tokens, kept, machine, offload, rank=config.lora_rank)


def estimate_student(
    config: DistillConfig, shape: TransformerShape, tokens: Tokens, machine: Machine
) -> Estimate:
    """Stage distill of a transformer of `shape` on edits of `tokens` each."""
    count, method = _count(lambda: FluxTransformer(shape)), distillation(config)
    # sharded beside the student: the teacher, and networks that have no averages
    others = MASTER + (len(method.DISTILS) - 1) * (MASTER + GRADIENT + _OPTIMISER["adamw"])
    base = Estimate(
        stage="distill",
        parameters=count,
        steps=config.steps,
        flops=method.step_flops(config, shape, tokens),
        state_gib=_state(count, "adamw", machine.gpus) + others * count / machine.gpus / _GIB,
        recompute=config.parallel.recompute,
    )
    rows = ceil(ceil(config.batch / machine.gpus) / config.accumulate)
    # the student's pass and the teacher's behind it are both kept
    return _with_switches(base, shape, tokens, rows, machine, config.parallel.offload, 2)


def _with_switches(
    base: Estimate,
    shape: TransformerShape,
    tokens: Tokens,
    rows: float,
    machine: Machine,
    offload: bool,
    passes: int = 1,
    rank: int = 0,
) -> Estimate:
    """The stage as the recipe has it; where that does not fit, the first switch that would do.

    Args:
        rows: samples that a GPU computes at once.
        passes: of each sample through a model, that are kept at the same time.
        rank: of the adapters beside frozen layers; 0: all weights train.
    """

    def at(mode: Recompute, parts: int = 1) -> Estimate:
        each = activations(shape, mode, offload, rank)
        most = rows if parts == 1 else ceil(rows / parts)
        kept = passes * each * tokens.count * most / _GIB
        found = replace(base, recompute=mode, activations_gib=kept)
        return replace(found, fits=found.memory_gib <= machine.memory)

    asked = at(base.recompute)
    if not asked.fits:
        asked = replace(asked, advice=_advice(at, asked, machine, max(1, int(rows))))
    return _timed(asked, machine)


def _advice(at: Callable[..., Estimate], asked: Estimate, machine: Machine, rows: int) -> str:
    """Which switch to flip; `at(recompute, parts)` is the stage with it flipped."""
    section = asked.stage  # both stages' sections have their names
    switch = f"{section}.parallel.recompute"
    for mode in MODES[MODES.index(asked.recompute) :]:
        if at(mode).fits:
            return f"set {switch}={mode}: {at(mode).memory_gib:.1f} GiB then"
    if at("full").state_gib + _RESERVE > machine.memory:
        return f"the state alone is too large: more GPUs than {machine.gpus}"
    for parts in range(2, rows + 1):
        if at("full", parts).fits:
            return f"set {switch}=full and {section}.accumulate={parts}"
    return f"set {switch}=full and a smaller batch, or more GPUs"


def _timed(made: Estimate, machine: Machine) -> Estimate:
    """With the seconds of a step, where the machine's peak is known."""
    if machine.speed is None:
        return made
    again = {"none": 1.0, "selective": 7 / 6, "full": 4 / 3}[made.recompute]
    return replace(made, step_seconds=made.flops * again / machine.speed)


def _state(parameters: int, optimizer: str, ranks: int) -> float:
    each = MASTER + GRADIENT + _OPTIMISER[optimizer] + _EMA
    return each * parameters / ranks / _GIB


def _flow_state(config: FinetuneConfig, count: int, adapters: int, machine: Machine) -> float:
    """What a GPU holds of masters, gradients, moments and averages; of a frozen base its weights.

    The base of adapters is taken to be stored in 16 bits, as published weights are.
    """
    if not adapters:
        return _state(count, config.optimizer, machine.gpus)
    held = MASTER if config.parallel.precision == "fp32" else GATHERED
    ranks = machine.gpus if config.lora_base == "stored" else 1  # each holds all that is quantised
    base, largest = base_bytes(config, held)
    return _state(adapters, config.optimizer, ranks) + (base / ranks + largest) / _GIB


def _adapter_count(config: FinetuneConfig) -> int:
    """Parameters of the adapters that the section trains; 0 where it trains all weights."""
    if not config.lora_rank:
        return 0
    with torch.device("meta"):
        model = FluxTransformer(config.shape)
    names = linear_layers(model, config.lora_targets or BLOCKS)
    sizes = (model.get_parameter(f"{name}.weight").shape for name in names)
    return config.lora_rank * sum(rows + columns for rows, columns in sizes)


def _gathered(config: FinetuneConfig, machine: Machine) -> float:
    """bf16 copies of weights: autocast's of all, or FSDP's of the block at work and those ahead.

    A base of 16 bits has no copies, and a quantised one (`base_bytes`) is not gathered.
    """
    if config.lora_base != "stored":
        return 0.0
    if machine.gpus == 1 and config.lora_rank and config.parallel.precision != "fp32":
        return 0.0
    if machine.gpus == 1:
        return GATHERED * _count(lambda: FluxTransformer(config.shape)) / _GIB
    hidden = config.shape.hidden_size
    block = 2 * (4 + 2 * config.shape.mlp_ratio) * hidden**2 + 12 * hidden**2
    return (config.parallel.prefetch + 2) * GATHERED * block / _GIB


def _count(make: Callable[[], nn.Module]) -> int:
    """Parameters of a model."""
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


def activations(
    shape: TransformerShape, mode: Recompute, offload: bool = False, rank: int = 0
) -> float:
    """Bytes a token of one sample keeps for the backward pass, over all blocks.

    With `offload` all but one block's wait in the host's memory; with `rank` only adapters train.
    """
    double, single, last = activation_bytes_per_token(shape.mlp_ratio, rank > 0)
    width = shape.hidden_size
    if offload:
        return max(double, single) * width
    # a block's input, in the residual stream's dtype; and what one block keeps while it is redone
    least = 4 * width * (shape.depth + shape.depth_single_blocks)
    if mode == "full":
        return least + max(double, single) * width
    if mode == "none":
        return (double * shape.depth + single * (shape.depth_single_blocks - 1) + last) * width
    # attention's output, and every other product: half of 9 (double) or 8 (single) widths in bf16
    products = 2 * width * (5.5 * shape.depth + 5 * shape.depth_single_blocks)
    return least + products + max(double, single) * width


@cache
def activation_bytes_per_token(
    mlp_ratio: float, adapted: bool = False
) -> tuple[float, float, float]:
    """Bytes that autograd keeps per token and unit of width: a double block, a single block, and
    the last single block with what surrounds the blocks.

    Measured on blocks of 64 channels under bf16 autocast with a fused attention kernel: what one
    block more keeps of a long sequence beyond what it keeps of a short one. (What does not grow
    with tokens is autocast's copies of the weights.) With `adapted` the layers have adapters of
    rank 1 and are frozen, in bf16.
    """
    short, long = 8, 16  # tokens along a side

    def slope(depth: int, singles: int) -> float:
        tokens = 2 * (long**2 - short**2)
        kept = (_kept(depth, singles, mlp_ratio, side, adapted) for side in (long, short))
        return (next(kept) - next(kept)) / tokens / _WIDTH

    one = slope(1, 1)
    double = slope(2, 1) - one
    return double, slope(1, 2) - one, one - double


def _kept(depth: int, singles: int, mlp_ratio: float, side: int, adapted: bool) -> int:
    """Bytes that autograd keeps of a forward pass of one small sample with 32 tokens of text."""
    shape = TransformerShape(
        in_channels=16,
        vec_in_dim=8,
        context_in_dim=16,
        hidden_size=_WIDTH,
        mlp_ratio=mlp_ratio,
        num_heads=1,
        depth=depth,
        depth_single_blocks=singles,
        axes_dim=(16, 24, 24),
        guidance_embed=False,
    )
    torch.manual_seed(0)
    model, n = FluxTransformer(shape), side**2
    if adapted:
        apply_lora(model.to(torch.bfloat16), LoraConfig(rank=1))
    own = {p.data_ptr() for p in model.parameters()}
    tokens = torch.randn(1, 2 * n, 16)
    ids = sequence_ids((side, side), [(side, side)])
    texts = torch.randn(1, 32, 16), torch.randn(1, 8)
    with _saved(own) as held, torch.autocast("cpu", torch.bfloat16):
        model(tokens, ids, *texts, torch.rand(1), target_length=n)
    return sum(held.values())


@contextmanager
def _saved(ignored: set[int]) -> Iterator[dict[int, int]]:
    """Bytes of the storages that autograd keeps, each once, without those of the weights."""
    held: dict[int, int] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignored and not isinstance(tensor, nn.Parameter):
            held[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    use_kernel("sdpa")  # attention without its matrix of weights, as on a GPU
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield held
    finally:
        use_kernel("auto")
