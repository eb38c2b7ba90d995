"""FLUX.1 Kontext at its own size on one GPU of 80 GB: 12 B random bf16 weights, 1024 x 1024.

    python -m benchmarks.full_size [--kernels auto,flash2,fa3,fa4] [--compile] [--save]

Per attention kernel, with joint and with cached context: seconds per step (median), per edit of 28
and of 4 steps, peak memory, model FLOPs utilisation, and the kernel that ran. The transformer
alone: text encoders and autoencoder are not in it. Goal on an H200: 10 s for 28 steps, 1.6 s for 4.
Unrun so far: the tests take this path with a tiny model on CPU only.
"""

import argparse
import statistics
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.goals import goal
from benchmarks.timing import device_name, save, seconds, synchronise, take_turns
from kontext.errors import KontextError
from kontext.models.flux.layout import ContextCache
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.attention import KernelError, use_kernel
from kontext.parallel.compile import compile_blocks
from kontext.parallel.flops import PEAKS, Tokens, step_flops, utilisation
from kontext.train.flow.timesteps import schedule
from schemas.sections.models import TransformerShape

GOALS = {28: 10.0, 4: 1.6}  # seconds per edit on an H200
MEMORY = 79 * 2**30  # what an 80 GB card reports


@dataclass(frozen=True)
class Row:
    """What one kernel and one mode reached."""

    kernel: str
    mode: str
    step: float  # seconds
    edits: dict[int, float]  # seconds per edit, by its number of steps
    peak_memory: int | None  # bytes
    utilisation: float | None


class Edit:
    """Random weights and inputs of one edit: a square target and one context like it."""

    def __init__(
        self,
        shape: TransformerShape,
        device: torch.device,
        side: int,
        text: int,
        dtype: torch.dtype,
    ) -> None:
        self.device, self.dtype, n = device, dtype, side**2
        with torch.device("meta"):
            model = FluxTransformer(shape).to(dtype)
        self.model = model.to_empty(device=device).eval().requires_grad_(False)
        torch.manual_seed(0)
        for name, parameter in self.model.named_parameters():
            parameter.normal_(1.0 if name.endswith("scale") else 0.0, 0.02)
        self.counts = Tokens(text, n, n)
        self.ids = sequence_ids((side, side), [(side, side)], device)
        self.tokens = torch.randn(1, 2 * n, shape.in_channels, device=device, dtype=dtype)
        self.text = torch.randn(1, text, shape.context_in_dim, device=device, dtype=dtype)
        self.pooled = torch.randn(1, shape.vec_in_dim, device=device, dtype=dtype)
        embeds = shape.guidance_embed
        self.guidance = torch.full((1,), 2.5, device=device, dtype=dtype) if embeds else None

    def cache(self) -> ContextCache | None:
        """The context's cache, in the mode that has one."""
        if not self.model.shape.cached_context:
            return None
        n = self.counts.target
        clean, where = self.tokens[:, n:], self.ids[n:]
        return self.model.context_cache(clean, where, self.pooled, guidance=self.guidance)

    @torch.no_grad()
    def step(self, x: Tensor, t: float, cache: ContextCache | None) -> Tensor:
        """The velocity at time t."""
        n = self.counts.target
        tokens = x if cache is not None else torch.cat((x, self.tokens[:, n:]), dim=1)
        ids = self.ids[: tokens.shape[1]]
        times = torch.full((1,), t, device=self.device, dtype=self.dtype)
        out: Tensor = self.model(
            tokens,
            ids,
            self.text,
            self.pooled,
            times,
            target_length=n,
            guidance=self.guidance,
            cache=cache,
        )
        return out

    def run(self, steps: int) -> Tensor:
        """A whole edit by Euler's rule, the making of the cache counted in."""
        n = self.counts.target
        x, cache, times = (
            self.tokens[:, :n],
            self.cache(),
            schedule(steps, n, self.model.shape.timestep_shift).tolist(),
        )
        for t, following in pairwise(times):
            x = x + (following - t) * self.step(x, t, cache)
        return x


def measure(edit: Edit, kernel: str, repeats: int, steps: tuple[int, ...]) -> Row:
    """Warm up, then time steps and edits under the kernel in use."""
    device, cache = edit.device, edit.cache()
    start = edit.tokens[:, : edit.counts.target]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = take_turns({"step": lambda: edit.step(start, 0.5, cache)}, device, repeats)["step"]
    median = statistics.median(step)
    edits = {n: seconds(lambda n=n: edit.run(n), device) for n in steps}  # type: ignore[misc]
    synchronise(device)
    peak = next((p for name, p in PEAKS.items() if name in device_name(device)), None)
    flops = step_flops(edit.model.shape, edit.counts, cache=cache is not None).total
    return Row(
        kernel=kernel,
        mode="cached" if cache is not None else "joint",
        step=median,
        edits=edits,
        peak_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        utilisation=None if peak is None else utilisation(flops, median, peak),
    )


def compare(
    shape: TransformerShape, device: torch.device, args: argparse.Namespace
) -> tuple[list[Row], dict[str, str]]:
    """Rows per kernel and mode, and why the kernels without a row have none."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows: list[Row] = []
    refused: dict[str, str] = {}
    for cached in (False, True):
        of = shape.model_copy(update={"cached_context": cached})
        edit = Edit(of, device, args.side, args.text, dtype)
        if args.compile:
            compile_blocks(edit.model, [args.text + 2 * args.side**2], backend=args.backend)
        for name in args.kernels.split(","):
            try:
                kernel = use_kernel(name, device)
            except KernelError as error:
                refused[name] = str(error)
                continue
            rows.append(measure(edit, kernel, args.repeats, (28, 4)))
        del edit
    use_kernel("auto")
    return rows, refused


def show(row: Row) -> str:
    """One line."""
    memory = "" if row.peak_memory is None else f", peak {row.peak_memory / 2**30:.1f} GiB"
    share = "" if row.utilisation is None else f", MFU {row.utilisation:.1%}"
    edits = ", ".join(f"{n} steps {took:.2f} s" for n, took in row.edits.items())
    return f"{row.kernel:12s} {row.mode:7s} {row.step:.4f} s per step, {edits}{memory}{share}"


def tell_goals(rows: list[Row]) -> None:
    """Whether FLUX.1 Kontext's own attention reaches the goals with the fastest kernel."""
    joint = [row for row in rows if row.mode == "joint"]
    for steps, limit in GOALS.items() if joint else ():
        best = min(joint, key=lambda row: row.edits[steps])
        goal(f"{steps} steps, {best.kernel}", best.edits[steps], limit, " s")


def check_device(device: torch.device) -> None:
    """Raise KontextError where the card cannot hold the model."""
    if device.type != "cuda" or not torch.cuda.is_available():
        raise KontextError("full_size needs a CUDA card of at least 80 GB; there is none here")
    memory = torch.cuda.get_device_properties(device).total_memory
    if memory < MEMORY:
        raise KontextError(f"full_size needs 80 GB; this card has {memory / 2**30:.0f} GiB")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kernels", default="auto,flash2,fa3,fa4")
    parser.add_argument("--side", type=int, default=64, help="tokens along one image side")
    parser.add_argument("--text", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--backend", default="inductor", help="torch.compile's")
    parser.add_argument("--save", action="store_true", help="write results/*.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Check the card, measure, print, and write JSON where asked."""
    args, device = parse(argv), torch.device("cuda")
    try:
        check_device(device)
    except KontextError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    shape = TransformerShape()
    rows, refused = compare(shape, device, args)
    for row in rows:
        print(show(row))
    for name, why in refused.items():
        print(f"{name:12s} not measured: {why}")
    tell_goals(rows)
    if args.save:
        record = {"rows": [asdict(r) for r in rows], "refused": refused, "arguments": vars(args)}
        save("full_size", device, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
