"""`kontext plan` against measurement: memory of training steps of ten configurations.

    python -m benchmarks.plan [--only NAME,…] [--save]
    python -m benchmarks.plan --machines       # FLUX.1-dev on four machines, planned alone

Predicted: the step rehearsed without numbers (`kontext.train.plan`). Measured: two real steps of
the same method in a fresh process of its own, by what the CPU's allocator tells PyTorch's profiler
of every piece of memory taken and given back; the most of it after the method was built. Beside it
the most that the process held of the machine's memory (`VmHWM`), beyond what it held before the
method was built: that has kernels' workspaces and what the allocator keeps.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.timing import save
from kontext.data.encoded.pair_tensors import PairTensors
from kontext.data.encoded.rows import MappedRows
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import apply_lora
from kontext.parallel.flops import Tokens
from kontext.parallel.world import World, join, leave
from kontext.train.capacity import Machine, estimate_flow
from kontext.train.flow.model import lora_config
from kontext.train.loop.training import BuiltMethod
from kontext.train.methods.flow import FlowMethod
from kontext.train.methods.ladd import LaddMethod
from kontext.train.plan.memory import Memory, flow_memory, pairs_of, student_memory
from schemas.recipes import load_recipe
from schemas.sections.models import TransformerShape
from schemas.sections.training import DistillConfig, FinetuneConfig

GOAL = 0.10
STEPS = 2
SHAPE = TransformerShape(
    in_channels=64,
    vec_in_dim=128,
    context_in_dim=256,
    hidden_size=256,
    num_heads=4,
    depth=2,
    depth_single_blocks=3,
    axes_dim=(16, 24, 24),
)
TOKENS = Tokens(32, 256, 256)
MACHINES = (Machine(1, 24.0), Machine(1, 48.0), Machine(1, 80.0), Machine(8, 80.0))


@dataclass(frozen=True)
class Case:
    """A section, and what its edits and ranks are."""

    config: FinetuneConfig | DistillConfig
    tokens: Tokens = TOKENS
    ranks: int = 1


def flow(**changes: Any) -> FinetuneConfig:
    """A section of finetune that takes a few seconds."""
    values = {"shape": SHAPE, "batch": 4, "optimizer": "adamw", "t2i_share": 0.0}
    return FinetuneConfig.model_validate(
        {**values, "t2i_steps": 0, "joint_steps": STEPS, "image_dropout": 0.0, **changes}
    )


CASES = {
    "all weights, AdamW": Case(flow()),
    "recompute=selective": Case(flow(parallel={"recompute": "selective"})),
    "recompute=full, accumulate=2": Case(flow(accumulate=2, parallel={"recompute": "full"})),
    "Muon, a quarter text-to-image": Case(flow(optimizer="muon", t2i_share=0.25)),
    "adamw-8bit": Case(flow(optimizer="adamw-8bit", parallel={"recompute": "full"})),
    "two references": Case(flow(batch=2), Tokens(32, 256, 512)),
    "LoRA beside bf16": Case(flow(lora_rank=16)),
    "LoRA, offload": Case(flow(lora_rank=16, parallel={"offload": True})),
    "LADD": Case(DistillConfig(steps=STEPS, batch=2, warmup_steps=1)),
    "two ranks (FSDP2), AdamW": Case(flow(), ranks=2),
}


def predicted(case: Case) -> Memory:
    """The most bytes of a step on this machine's CPU, by rehearsal."""
    if isinstance(case.config, DistillConfig):
        return student_memory(case.config, SHAPE, case.tokens, case.ranks, "cpu")
    return flow_memory(case.config, case.tokens, case.ranks, "cpu")


def built(case: Case, world: World, shape: TransformerShape = SHAPE) -> BuiltMethod:
    """The method of a case, with numbers."""
    config, singles = case.config, getattr(case.config, "t2i_share", 0) > 0
    data = filled(pairs_of(shape, case.tokens, singles))
    torch.manual_seed(0)
    model = FluxTransformer(shape)
    if isinstance(config, DistillConfig):
        edits = torch.randn(2, *data.latents[torch.tensor([0])].shape[1:])
        return LaddMethod(config, data, data.edits(), edits, model, world)
    if config.lora_rank:
        apply_lora(model.to(torch.bfloat16), lora_config(config))
    return FlowMethod(config, data, model, world)


def filled(data: PairTensors) -> PairTensors:
    """The same pairs with normal numbers."""
    draw = torch.Generator().manual_seed(0)
    assert isinstance(data.latents, MappedRows)
    shards = [torch.randn(shard.shape, generator=draw) for shard in data.latents._shards]

    def like(rows: Any) -> Tensor:
        return torch.randn(rows.shape, generator=draw)

    return replace(
        data,
        latents=MappedRows(shards),
        text_tokens=like(data.text_tokens),
        text_pooled=like(data.text_pooled),
    )


def measured(build: Callable[[], BuiltMethod], steps: int = STEPS) -> int:
    """The most live bytes during steps of what `build` makes, by PyTorch's profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        method = build()
        with record_function("steps begin"):
            pass
        for index in range(steps):
            method.step(index)
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    events = seen.profiler.kineto_results.events()
    began = next(e.start_ns() for e in events if e.name() == "steps begin")
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = 0
    for when, size in changes:
        live += size
        peak = max(peak, live) if when >= began else live
    return peak


def measure_alone(name: str) -> None:
    """Measure a case in this process, as one rank where it has several; prints one JSON line."""
    case = CASES[name]
    world = join() if case.ranks > 1 else World()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    peak = measured(lambda: built(case, world))
    # the profiler's own events are in it, a few tens of megabytes
    print(json.dumps({"peak": peak, "process": _status("VmHWM") - before}))
    leave()


def _status(name: str) -> int:
    """Bytes of a line of the process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def in_fresh_processes(name: str) -> dict[str, int]:
    """`measure_alone` in as many processes as the case has ranks: the most of any."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    ranks = CASES[name].ranks
    command = [sys.executable, "-m", "benchmarks.plan", "--measure", name]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    found = []
    for process in running:
        out, _ = process.communicate(timeout=1800)
        if process.returncode:
            raise SystemExit(f"{name}: a rank ended with {process.returncode}")
        found.append(json.loads(out.splitlines()[-1]))
    return {key: max(each[key] for each in found) for key in ("peak", "process")}


def compare(names: list[str]) -> list[dict[str, Any]]:
    """A row per case, printed as it is found."""
    rows = []
    for name in names:
        told = predicted(CASES[name])
        found = in_fresh_processes(name)
        error = told.peak / found["peak"] - 1
        rows.append({"case": name, "predicted": told.peak, "state": told.state, **found})
        rows[-1]["error"] = error
        mib = (told.peak / 2**20, found["peak"] / 2**20, found["process"] / 2**20)
        told_line = "predicted {:7.1f} MiB, measured {:7.1f}, process {:7.1f}".format(*mib)
        print(f"{name:30s} {told_line}, error {error:+.2%}", flush=True)
    return rows


def machines() -> list[dict[str, Any]]:
    """What the finetunes of FLUX.1-dev take on four machines, and what makes them fit."""
    rows = []
    for name in ("flux1-lora", "flux1"):
        recipe = load_recipe(name)
        for machine in MACHINES:
            section = recipe.finetune
            made = estimate_flow(section, Tokens(512, 4096, 4096), machine)
            where = f"{machine.gpus} x {machine.memory:g} GB"
            row = {"recipe": name, "machine": where, "state_gib": made.state_gib}
            row |= {"memory_gib": made.memory_gib, "fits": made.fits, "advice": made.advice}
            rows.append(row)
            print(
                f"{name:11s} {where:10s} {made.memory_gib:6.1f} GiB, state {made.state_gib:6.1f}: "
                f"{'fits' if made.fits else 'does not fit'}; {made.advice}",
                flush=True,
            )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Predict, measure, print; 1 where a prediction is off by more than a tenth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="cases, separated by ;")
    parser.add_argument("--save", action="store_true", help="write results/*.json")
    parser.add_argument("--machines", action="store_true", help="FLUX.1-dev on four machines")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        measure_alone(args.measure)
        return 0
    device = torch.device("cpu")
    if args.machines:
        rows = machines()
        if args.save:
            save("plan-machines", device, {"rows": rows})
        return 0
    rows = compare(args.only.split(";") if args.only else list(CASES))
    worst = max(abs(row["error"]) for row in rows)
    print(f"worst error {worst:.2%} (goal {GOAL:.0%}), {len(rows)} configurations")
    if args.save:
        save("plan", device, {"rows": rows, "worst": worst, "goal": GOAL})
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
