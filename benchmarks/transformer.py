"""Our transformer beside diffusers' FluxTransformer2DModel: same weights, same inputs, one process.

    python -m benchmarks.transformer [--compile] [--batch 96] [--threads 2] [--device cpu] [--save]

Times a forward pass and a training step (forward and backward) under bf16 autocast, the models
taking turns, and prints the median of the round-by-round ratios and the difference of the outputs.
`--compile` adds our compile path (block by block, see kontext/parallel/compile.py). `--save`
writes benchmarks/results/transformer-DEVICE.json. At FLUX.1's own size: benchmarks/full_size.py.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.goals import goal
from benchmarks.timing import ratio, save, take_turns
from kontext.models.files.convert import rules_for, to_diffusers, transformer_config
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.attention import active_kernel
from kontext.parallel.compile import compile_blocks
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

Forward = Callable[[], Tensor]
Models = dict[str, tuple[nn.Module, Forward]]
GOALS = {"kontext": 1.0, "kontext compiled": 1.15}  # times as fast as diffusers, eager


def build(shape: TransformerShape, args: argparse.Namespace) -> Models:
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
    ours, theirs = ours.to(device), theirs.to(device)
    n = args.side**2
    ids = sequence_ids((args.side, args.side), [(args.side, args.side)], device)
    tokens = torch.randn(args.batch, 2 * n, shape.in_channels, device=device)
    text = torch.randn(args.batch, args.text, shape.context_in_dim, device=device)
    pooled = torch.randn(args.batch, shape.vec_in_dim, device=device)
    times = torch.rand(args.batch, device=device)

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
            txt_ids=torch.zeros(args.text, 3, device=device),
            return_dict=False,
        )[0]
        return out[:, :n]

    models: Models = {"kontext": (ours, partial(run_ours, ours)), "diffusers": (theirs, run_theirs)}
    if args.compile:
        compiled = copy.deepcopy(ours)
        compile_blocks(compiled, [args.text + 2 * n])
        models["kontext compiled"] = (compiled, partial(run_ours, compiled))
    return models


def step(model: nn.Module, forward: Forward, device: str) -> None:
    """Forward and backward; gradients start empty, as after an optimiser's step."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16):
        out = forward()
    out.float().square().mean().backward()


@torch.no_grad()
def infer(_: nn.Module, forward: Forward, device: str) -> None:
    """Forward only."""
    with torch.autocast(device, torch.bfloat16):
        forward()


def measure(models: Models, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Seconds per model and round, for forward and for forward+backward."""
    device = torch.device(args.device)
    out = {}
    for label, task in (("forward", infer), ("forward+backward", step)):
        runs = {name: partial(task, *pair, device.type) for name, pair in models.items()}
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
    shape, device = shape or FinetuneConfig().shape, torch.device(args.device)
    models = build(shape, args)
    with torch.no_grad():
        outputs = {name: forward() for name, (_, forward) in models.items()}
    difference = max(
        (outputs[name] - outputs["diffusers"]).abs().max().item()
        for name in outputs
        if name != "diffusers"
    )
    times = measure(models, args)
    ratios: dict[str, dict[str, float]] = {}
    for label, found in times.items():
        ratios[label] = {name: ratio(found, name, "diffusers") for name in found}
        for name, values in found.items():
            median = statistics.median(values) * 1e3
            print(
                f"{label:17s} {name:17s} {median:9.1f} ms  {ratios[label][name]:5.2f} x diffusers"
            )
    for label, reached in ratios.items():
        for name, limit in GOALS.items():
            if name in reached:
                goal(f"{label}, {name} / diffusers", reached[name], limit, at_least=True)
    print(f"largest difference in fp32: {difference:.1e}; attention: {active_kernel(device)}")
    if args.save:
        record = {
            "shape": shape.model_dump(mode="json"),
            "arguments": vars(args),
            "attention": active_kernel(device),
            "seconds": times,
            "ratios_to_diffusers": ratios,
            "difference_fp32": difference,
        }
        save("transformer", device, record)


if __name__ == "__main__":
    main()
