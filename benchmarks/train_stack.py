"""FLUX.1's blocks at Kontext's 8,704 tokens in our flow step, depth cut to fit one GPU of 80 GB.

    python -m benchmarks.train_stack [--depth 3 --single 6] [--kernels cudnn,flash2,fa3] [--save]

Per attention kernel and per mode of activation checkpointing: seconds per step, tokens per second,
peak memory and model FLOPs utilisation (operations of forward and backward, nothing recomputed
counted), from `FlowMethod.step` with fp32 masters, AdamW and EMA. Hidden size, heads, MLP and
sequence are FLUX.1 Kontext's at 1024 x 1024; the number of blocks is not. Goal on an H200: 50 %.
Unrun so far: the tests take this path with a tiny model on CPU only.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.full_size import check_device
from benchmarks.timing import save, take_turns
from benchmarks.train_step import config_for, make_data
from kontext.errors import KontextError
from kontext.parallel.attention import KernelError, use_kernel
from kontext.parallel.compile import compile_blocks
from kontext.parallel.flops import peak_flops, utilisation
from kontext.train.methods.flow import FlowMethod
from schemas.sections.models import TransformerShape
from schemas.sections.training import ParallelConfig

GOAL = 0.5


@dataclass(frozen=True)
class Row:
    """What one kernel reached in one mode of activation checkpointing."""

    kernel: str
    recompute: str
    seconds: float
    tokens_per_second: float
    peak_memory: int | None  # bytes
    utilisation: float | None


@contextmanager
def kernel(name: str, device: torch.device) -> Iterator[str]:
    """Attention by one kernel; `cudnn` is PyTorch's own, with every other backend shut out."""
    if name == "cudnn" and device.type != "cuda":
        raise KernelError(f"attention kernel 'cudnn' needs a CUDA device, not {device.type}")
    told = use_kernel("sdpa" if name == "cudnn" else name, device)
    only = sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if name == "cudnn" else nullcontext()
    try:
        with only:
            yield "cudnn" if name == "cudnn" else told
    finally:
        use_kernel("auto")


def measure(shape: TransformerShape, device: torch.device, args: Any, mode: Any, name: str) -> Row:
    """One row.

    Raises:
        KernelError: the kernel does not run here.
    """
    config = config_for(shape, args).model_copy(update={"parallel": ParallelConfig(recompute=mode)})
    data = make_data(shape, args, pairs=8)
    with kernel(name, device) as told:
        method = FlowMethod(config, data)
        if args.compile:
            compile_blocks(method.model, [args.text + 2 * args.side**2], backend=args.backend)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        numbers = count()
        run = {"step": lambda: method.step(next(numbers))}
        took = statistics.median(take_turns(run, device, args.repeats)["step"])
    work, peak = method.work(0), peak_flops(device, torch.bfloat16)
    assert work.flops is not None
    return Row(
        kernel=told,
        recompute=mode,
        seconds=took,
        tokens_per_second=work.tokens / took,
        peak_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        utilisation=None if peak is None else utilisation(work.flops, took, peak),
    )


def compare(
    shape: TransformerShape, device: torch.device, args: argparse.Namespace
) -> tuple[list[Row], dict[str, str]]:
    """Rows, and why those that are missing are."""
    rows: list[Row] = []
    refused: dict[str, str] = {}
    for name in args.kernels.split(","):
        for mode in args.recompute.split(","):
            try:
                rows.append(measure(shape, device, args, mode, name))
            except (KernelError, torch.OutOfMemoryError) as error:
                refused[f"{name}, {mode}"] = str(error).splitlines()[0]
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return rows, refused


def show(row: Row) -> str:
    """One line with the verdict."""
    memory = "" if row.peak_memory is None else f", peak {row.peak_memory / 2**30:.1f} GiB"
    share = "MFU unknown: the device's peak is not known"
    if row.utilisation is not None:
        word = "reached" if row.utilisation >= GOAL else "NOT reached"
        share = f"MFU {row.utilisation:.1%} (goal {GOAL:.0%}, {word})"
    return (
        f"{row.kernel:12s} recompute {row.recompute:9s} {row.seconds:.3f} s per step, "
        f"{row.tokens_per_second:,.0f} tokens/s{memory}, {share}"
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--depth", type=int, default=3, help="double blocks, of FLUX.1's 19")
    parser.add_argument("--single", type=int, default=6, help="single blocks, of FLUX.1's 38")
    parser.add_argument("--kernels", default="cudnn,flash2,fa3")
    parser.add_argument("--recompute", default="none,selective,full")
    parser.add_argument("--side", type=int, default=64, help="tokens along one image side")
    parser.add_argument("--text", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--backend", default="inductor", help="torch.compile's")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--save", action="store_true", help="write results/*.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Check the card, measure, print, and write JSON where asked."""
    args = parse(argv)
    device = torch.device(args.device)
    try:
        check_device(device)
    except KontextError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    shape = TransformerShape(
        depth=args.depth, depth_single_blocks=args.single, guidance_embed=False
    )
    rows, refused = compare(shape, device, args)
    for row in rows:
        print(show(row))
    for name, why in refused.items():
        print(f"{name}: not measured: {why}")
    if args.save:
        record = {"rows": [asdict(r) for r in rows], "refused": refused, "arguments": vars(args)}
        save("train_stack", device, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
