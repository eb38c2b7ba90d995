"""Our transformer beside diffusers' FluxTransformer2DModel: same weights, same inputs, one process.

    python -m benchmarks.transformer [--compile] [--batch 96] [--threads 2] [--device cpu] [--save]

Times a forward pass and a training step (forward and backward), the models taking turns, and prints
the median of the round-by-round ratios and the difference of the outputs. What is compared depends
on how a model is run, so each way has rows of its own:

    autocast   fp32 weights under bf16 autocast, as trainers hold them; each model with its own
               kernels. Autocast takes diffusers off its fused norm, and ours picks its attention.
    bf16       bf16 weights, no autocast; PyTorch's SDPA for both
    fp32       fp32 weights, no autocast; PyTorch's SDPA for both

`--compile` adds our compile path (block by block, see kontext/parallel/compile.py). `--save`
writes benchmarks/results/transformer-DEVICE.json. At FLUX.1's own size: benchmarks/full_size.py.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.goals import goal
from benchmarks.timing import ratio, save, take_turns
from kontext.models.files.convert import rules_for, to_diffusers, transformer_config
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.attention import use_kernel
from kontext.parallel.compile import compile_blocks
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

Forward = Callable[[], Tensor]
Models = dict[str, tuple[nn.Module, Forward]]
GOALS = {"kontext": 1.0, "kontext compiled": 1.15}  # times as fast as diffusers, eager


class Way(NamedTuple):
    """How both models are run."""

    dtype: torch.dtype  # of weights and inputs
    autocast: bool  # to bf16
    kernel: str  # of ours; diffusers has SDPA


WAYS = {
    "autocast": Way(torch.float32, True, "auto"),
    "bf16": Way(torch.bfloat16, False, "sdpa"),
    "fp32": Way(torch.float32, False, "sdpa"),
}


def build(shape: TransformerShape, args: argparse.Namespace, way: Way) -> Models:
    """The models with equal random weights, and functions that predict the target's tokens."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    ours = FluxTransformer(shape)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    config = {k: v for k, v in transformer_config(shape).items() if k[0] != "_"}
    theirs = FluxTransformer2DModel(**config)
    theirs.load_state_dict(to_diffusers(ours.state_dict(), rules_for(ours)))
    device = torch.device(args.device)
    ours, theirs = ours.to(device, way.dtype), theirs.to(device, way.dtype)
    n = args.side**2
    ids = sequence_ids((args.side, args.side), [(args.side, args.side)], device)
    tokens = torch.randn(args.batch, 2 * n, shape.in_channels, device=device)
    text = torch.randn(args.batch, args.text, shape.context_in_dim, device=device)
    pooled = torch.randn(args.batch, shape.vec_in_dim, device=device)
    times = torch.rand(args.batch, device=device)
    tokens, text, pooled = (part.to(way.dtype) for part in (tokens, text, pooled))

    def run_ours(model: nn.Module) -> Tensor:
        out: Tensor = model(tokens, ids, text, pooled, times, target_length=n)
        return out

    def run_theirs() -> Tensor:
        out: Tensor = theirs(
            hidden_states=tokens,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=times,
            img_ids=ids,
            txt_ids=torch.zeros(args.text, 3, device=device, dtype=ids.dtype),
            return_dict=False,
        )[0]
        return out[:, :n]

    models: Models = {"kontext": (ours, partial(run_ours, ours)), "diffusers": (theirs, run_theirs)}
    if args.compile:
        compiled = copy.deepcopy(ours)
        compile_blocks(compiled, [args.text + 2 * n])
        models["kontext compiled"] = (compiled, partial(run_ours, compiled))
    return models


def step(model: nn.Module, forward: Forward, device: str, autocast: bool) -> None:
    """Forward and backward; gradients start empty, as after an optimiser's step."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        out = forward()
    out.float().square().mean().backward()


@torch.no_grad()
def infer(_: nn.Module, forward: Forward, device: str, autocast: bool) -> None:
    """Forward only."""
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        forward()


def measure(
    models: Models, args: argparse.Namespace, way: Way
) -> dict[str, dict[str, list[float]]]:
    """Seconds per model and round, for forward and for forward+backward."""
    device = torch.device(args.device)
    out = {}
    for label, task in (("forward", infer), ("forward+backward", step)):
        runs = {n: partial(task, *pair, device.type, way.autocast) for n, pair in models.items()}
        out[label] = take_turns(runs, device, args.repeats)
    return out


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--side", type=int, default=4, help="tokens along one image side")
    parser.add_argument("--text", type=int, default=20, help="text tokens")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--save", action="store_true", help="write results/*.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, shape: TransformerShape | None = None) -> None:
    """Measure, print a table, and write JSON where asked."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    shape = shape or FinetuneConfig().shape
    record: dict[str, Any] = {
        "shape": shape.model_dump(mode="json"),
        "arguments": vars(args),
        "ways": {name: run(name, way, shape, args) for name, way in WAYS.items()},
    }
    if args.save:
        save("transformer", torch.device(args.device), record)


def run(name: str, way: Way, shape: TransformerShape, args: argparse.Namespace) -> dict[str, Any]:
    """Measure and print one way to run both models."""
    device = torch.device(args.device)
    attention = use_kernel(way.kernel, device)
    try:
        models = build(shape, args, way)
        with torch.no_grad():
            outputs = {model: forward() for model, (_, forward) in models.items()}
        theirs = outputs.pop("diffusers")
        difference = max((out - theirs).abs().max().item() for out in outputs.values())
        times = measure(models, args, way)
    finally:
        use_kernel("auto", device)
    ratios: dict[str, dict[str, float]] = {}
    print(f"{name}: our attention is {attention}")
    for label, found in times.items():
        ratios[label] = {model: ratio(found, model, "diffusers") for model in found}
        for model, values in found.items():
            median = statistics.median(values) * 1e3
            times_as_fast = ratios[label][model]
            print(f"{label:17s} {model:17s} {median:9.1f} ms  {times_as_fast:5.2f} x diffusers")
    for label, reached in ratios.items():
        for model, limit in GOALS.items():
            if model in reached:
                what = f"{name}: {label}, {model} / diffusers"
                goal(what, reached[model], limit, at_least=True)
    kind = str(way.dtype).removeprefix("torch.")
    print(f"largest difference in {kind}: {difference:.1e}")
    return {
        "attention": attention,
        "seconds": times,
        "ratios_to_diffusers": ratios,
        "difference": difference,
    }


if __name__ == "__main__":
    main()
