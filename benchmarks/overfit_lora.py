"""Overfit gate of adapters: four pairs learned by a LoRA of rank 8, and what others lose by it.

    python -m benchmarks.overfit_lora [--base-steps 220] [--steps 1500] [--seed 0] [--save]

The pairs and the measure are those of `benchmarks.overfit`. A small flow is trained a little on all
eight, so that there is something to adapt, and is written to a file; adapters beside it are then
trained on the first four as stage finetune trains them. On those they must reach 30 dB. The others,
which the adapters never saw, must stay within 0.5 dB: of the mean squared error of all four, for
single pairs move more, up and down. Exits 1 where a figure is missed.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.overfit import (
    NOISE_SEED,
    SHORT,
    drawn,
    drawn_pairs,
    flow_config,
    mean_of,
    psnr,
)
from benchmarks.timing import save
from kontext.data.encoded.pair_tensors import PairTensors
from kontext.edit.pairs import EditSampler
from kontext.models.files.recognise_autoencoder import SHAPE_KEY
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.loop.fit import fit
from kontext.train.methods.flow import FlowMethod
from kontext.train.start.model import START, starting_model

FOUR = 4
RANK = 8
REACHES, WITHIN = 30.0, 0.5  # dB


def first_four(data: PairTensors) -> PairTensors:
    """The pairs that the adapters learn."""
    fields = ("target", "context", "text", "category")
    return dataclasses.replace(data, **{name: getattr(data, name)[:FOUR] for name in fields})


def write_base(path: Path, data: PairTensors, steps: int, seed: int) -> None:
    """A flow that was trained a little on all pairs, as a BFL file that says its shape."""
    size = dataclasses.replace(SHORT, flow_steps=steps, batch=12)
    method = FlowMethod(flow_config(size, seed), data)
    fit(method)
    method.state.ema["model"].copy_to(method.model)
    said = {SHAPE_KEY: method.model.shape.model_dump_json()}
    save_file(method.model.state_dict(), path, said)


def adapted(path: Path, data: PairTensors, steps: int, seed: int) -> FluxTransformer:
    """The base of a file with adapters beside it, trained; with none as it is (0 steps)."""
    base = flow_config(dataclasses.replace(SHORT, flow_steps=max(1, steps), batch=8), seed)
    changes = {"optimizer": "adamw", "lr": 3e-3, "lora_rank": RANK, "text_dropout": 0.0,
               "ema_decay": 0.9}  # fmt: skip
    config = base.model_copy(update=changes)
    inputs = Inputs({}, "", path.parent, path.parent, files={START: path})
    model, start = starting_model(config, inputs, data, World())
    method = FlowMethod(config, data, model, World(), start)
    if steps:
        fit(method)
        method.state.ema["model"].copy_to(method.model)
    return method.model.requires_grad_(False).eval()


def decibels(model: FluxTransformer, data: PairTensors) -> Tensor:
    """PSNR [8] of each pair's edit in 20 steps, from noise that no training saw."""
    return psnr(drawn(EditSampler(data, 20, 1.0, NOISE_SEED), model), data)


def main(argv: list[str] | None = None) -> int:
    """Train both, print the figures, and say whether they are reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base-steps", type=int, default=220)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="write results/overfit_lora-cpu.json")
    args = parser.parse_args(argv)
    data, began = drawn_pairs(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.safetensors"
        write_base(path, data, args.base_steps, args.seed)
        before = decibels(adapted(path, data, 0, args.seed), data)
        after = decibels(adapted(path, first_four(data), args.steps, args.seed), data)
    figures: dict[str, float] = {}
    for name, rows in (("learned", slice(FOUR)), ("others", slice(FOUR, None))):
        figures |= {f"{name}_before_db": mean_of(before[rows]), f"{name}_db": mean_of(after[rows])}
        each = ", ".join(
            f"{a:.1f} -> {b:.1f}" for a, b in zip(before[rows], after[rows], strict=True)
        )
        print(
            f"{name}: {figures[f'{name}_before_db']:.2f} -> {figures[f'{name}_db']:.2f} dB ({each})"
        )
    moved = figures["others_db"] - figures["others_before_db"]
    passed = figures["learned_db"] >= REACHES and abs(moved) <= WITHIN
    print(f"others moved by {moved:+.2f} dB; {time.monotonic() - began:.0f} s")
    print(f"overfit of adapters {'passed' if passed else 'MISSED'}")
    if args.save:
        save("overfit_lora", torch.device("cpu"), {**figures, "arguments": vars(args)})
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
