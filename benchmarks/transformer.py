"""Our transformer beside diffusers' FluxTransformer2DModel: same weights, same inputs, one process.

    python benchmarks/transformer.py [--batch 96] [--threads 2] [--device cpu] [--compile]

Times a forward pass and a training step (forward and backward) under bf16 autocast, the two models
taking turns so that a busy machine slows both, and prints the ratio of their best times and the
difference of their outputs. Results go to benchmarks/results/transformer-DEVICE.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kontext.models.convert import rules_for, to_diffusers, transformer_config
from kontext.models.sequence import sequence_ids, text_ids
from kontext.models.transformer import FluxTransformer
from kontext.parallel.attention import active_kernel
from schemas.recipes import FinetuneConfig, TransformerShape

Forward = Callable[[], Tensor]
RESULTS = Path(__file__).parent / "results"


def build(shape: TransformerShape, args: argparse.Namespace) -> dict[str, Forward]:
    """The two models with equal random weights, as functions that predict the target tokens."""
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
    side, n = args.side, args.side**2
    ids = sequence_ids((side, side), [(side, side)], device)
    tokens = torch.randn(args.batch, 2 * n, shape.in_channels, device=device)
    text = torch.randn(args.batch, args.text, shape.context_in_dim, device=device)
    pooled = torch.randn(args.batch, shape.vec_in_dim, device=device)
    times = torch.rand(args.batch, device=device)

    def run_ours(model: Callable[..., Tensor] = ours) -> Tensor:
        return model(tokens, ids, text, pooled, times, target_length=n)

    def run_theirs() -> Tensor:
        out: Tensor = theirs(
            hidden_states=tokens,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=times,
            img_ids=ids,
            txt_ids=text_ids(args.text, device),
            return_dict=False,
        )[0]
        return out[:, :n]

    models: dict[str, Forward] = {"kontext": run_ours, "diffusers": run_theirs}
    if args.compile:
        models["kontext compiled"] = partial(run_ours, torch.compile(ours))
    return models


def seconds(run: Callable[[], object], device: str) -> float:
    """Wall time of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step(model: Forward, device: str) -> None:
    """Forward and backward."""
    with torch.autocast(device, torch.bfloat16):
        out = model()
    out.float().square().mean().backward()


@torch.no_grad()
def infer(model: Forward, device: str) -> None:
    """Forward only."""
    with torch.autocast(device, torch.bfloat16):
        model()


def measure(models: dict[str, Forward], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Best seconds per model, for forward and forward+backward, with the models taking turns."""
    kind = torch.device(args.device).type
    out: dict[str, dict[str, float]] = {}
    for label, task in (("forward", infer), ("forward+backward", step)):
        best = dict.fromkeys(models, float("inf"))
        for repeat in range(args.repeats + 1):
            for name, model in models.items():
                took = seconds(lambda model=model, task=task: task(model, kind), kind)
                if repeat:  # the first round warms up and compiles
                    best[name] = min(best[name], took)
        out[label] = best
    return out


def main() -> None:
    """Parse arguments, measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--side", type=int, default=4, help="tokens along one image side")
    parser.add_argument("--text", type=int, default=20, help="text tokens")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    shape = FinetuneConfig().shape
    models = build(shape, args)
    with torch.no_grad():
        outputs = {name: model() for name, model in models.items()}
    difference = (outputs["kontext"] - outputs["diffusers"]).abs().max().item()
    times = measure(models, args)
    for label, best in times.items():
        for name, value in best.items():
            ratio = best["diffusers"] / value
            print(f"{label:18s} {name:18s} {value * 1e3:9.1f} ms   {ratio:5.2f} x diffusers")
    print(f"largest difference in fp32: {difference:.1e}; attention: {active_kernel(args.device)}")
    record = {
        "shape": shape.model_dump(mode="json"),
        "arguments": vars(args),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "attention": active_kernel(args.device),
        "seconds": times,
        "difference_fp32": difference,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"transformer-{torch.device(args.device).type}.json"
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
