"""One step of Muon over the demo's transformer: ours beside torch's, in one run.

    python -m benchmarks.muon [--repeats 3]

torch's Muon multiplies in bfloat16. Where the processor has no bf16 arithmetic, ours multiplies in
float32 (`kontext.parallel.muon`); elsewhere both are the same. Prints the ratio of the medians.
"""

import argparse
from statistics import median
from time import perf_counter

import torch
from torch import nn
from torch.optim import Muon

from kontext.models.flux.transformer import FluxTransformer
from kontext.train.optim.build import MatrixMuon
from schemas.recipes import load_recipe


def matrices() -> list[nn.Parameter]:
    """Fresh copies of the matrices that Muon updates, with gradients."""
    torch.manual_seed(0)
    model = FluxTransformer(load_recipe("demo").finetune.shape)
    found = [nn.Parameter(p.detach().clone()) for p in model.parameters() if p.ndim == 2]
    for parameter in found:
        parameter.grad = torch.randn_like(parameter)
    return found


def seconds(optimizer: Muon, repeats: int) -> float:
    """Median seconds of a step, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        started = perf_counter()
        optimizer.step()  # type: ignore[no-untyped-call]
        times.append(perf_counter() - started)
    return median(times[1:])


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args(argv)
    ours = MatrixMuon(matrices(), lr=1e-3, weight_decay=0.0)
    theirs = Muon(matrices(), lr=1e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    own, peer = seconds(ours, asked.repeats), seconds(theirs, asked.repeats)
    print(f"ours ({ours.products}): {own:.3f} s; torch's (bfloat16): {peer:.3f} s a step")
    print(f"{peer / own:.2f} x torch's Muon")


if __name__ == "__main__":
    main()
