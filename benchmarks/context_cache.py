"""What cached context saves: FLOPs at FLUX.1's size, counted, and wall time at a small one.

    python -m benchmarks.context_cache [--steps 28] [--side 16] [--device cpu] [--save]

The wall times are of the transformer in a whole edit of `--steps` steps with one context image, the
making of the cache counted in, three ways that take turns: FLUX.1 Kontext's joint attention, the
cached-context mode computing its contexts anew at every step, and the same with the cache.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.goals import goal
from benchmarks.timing import ratio, save, take_turns
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.parallel.flops import Tokens, cache_flops, step_flops
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

FLUX = (TransformerShape(), Tokens(text=512, target=4096, context=4096))


def saving(shape: TransformerShape, tokens: Tokens, steps: int | None = None) -> float:
    """The share of operations (0-1) that cached context saves against FLUX.1's joint attention.

    Args:
        steps: of an edit, the cost of making the cache included; None: of one step alone.
    """
    joint = step_flops(shape.model_copy(update={"cached_context": False}), tokens).total
    apart = shape.model_copy(update={"cached_context": True})
    cached = step_flops(apart, tokens, cache=True).total
    if steps is None:
        return 1 - cached / joint
    return 1 - (cached * steps + cache_flops(apart, tokens.context).total) / (joint * steps)


def build(
    shape: TransformerShape, args: argparse.Namespace
) -> tuple[dict[str, Callable[[], Tensor]], Tokens]:
    """The three ways of making one edit, each a function that returns its last velocity."""
    device, n = torch.device(args.device), args.side**2
    torch.manual_seed(0)
    joint = FluxTransformer(shape.model_copy(update={"cached_context": False})).to(device).eval()
    for parameter in joint.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    apart = FluxTransformer(shape.model_copy(update={"cached_context": True})).to(device).eval()
    apart.load_state_dict(joint.state_dict())
    ids = sequence_ids((args.side, args.side), [(args.side, args.side)], device)
    tokens = torch.randn(args.batch, 2 * n, shape.in_channels, device=device)
    text = torch.randn(args.batch, args.text, shape.context_in_dim, device=device)
    pooled = torch.randn(args.batch, shape.vec_in_dim, device=device)
    guidance = torch.ones(args.batch, device=device) if shape.guidance_embed else None

    @torch.no_grad()
    def edit(model: FluxTransformer, cached: bool) -> Tensor:
        rows, cache = 2 * n, None
        if cached:
            rows = n
            cache = model.context_cache(tokens[:, n:], ids[n:], pooled, guidance=guidance)
        out = tokens
        for step in range(args.steps):
            t = torch.full((args.batch,), 1 - step / args.steps, device=device)
            given = (tokens[:, :rows], ids[:rows], text, pooled, t)
            out = model(*given, target_length=n, guidance=guidance, cache=cache)
        return out

    ways = {
        "joint": partial(edit, joint, False),
        "apart, uncached": partial(edit, apart, False),
        "apart, cached": partial(edit, apart, True),
    }
    return ways, Tokens(args.text, n, n)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--side", type=int, default=16, help="tokens along one image side")
    parser.add_argument("--text", type=int, default=20, help="text tokens")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", action="store_true", help="write results/*.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, shape: TransformerShape | None = None) -> None:
    """Count, measure, print, and write JSON where asked."""
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    shape = shape or FinetuneConfig().shape
    ways, tokens = build(shape, args)
    counts = {}
    for name, (of, sizes) in {"FLUX.1, 1024 x 1024": FLUX, "this run": (shape, tokens)}.items():
        per_step, whole = saving(of, sizes), saving(of, sizes, args.steps)
        counts[name] = {"step": per_step, "edit": whole}
        print(
            f"{name}: FLOPs saved per step {per_step:.1%}, per {args.steps}-step edit {whole:.1%}"
        )
    saved_step = counts["FLUX.1, 1024 x 1024"]["step"]
    goal("FLOPs saved per step at FLUX.1's size", 100 * saved_step, 35, " %", at_least=True)
    difference = (ways["apart, cached"]() - ways["apart, uncached"]()).abs().max().item()
    times = take_turns(ways, torch.device(args.device), args.repeats, warmup=1)
    for name, values in times.items():
        saved = 1 - 1 / ratio(times, name, "joint")
        print(f"{name:16s} {statistics.median(values) * 1e3:9.1f} ms per edit, {saved:6.1%} saved")
    print(f"cached against uncached, largest difference: {difference:.1e}")
    if args.save:
        record = {
            "shape": shape.model_dump(mode="json"),
            "arguments": vars(args),
            "flops_saved": counts,
            "seconds": times,
            "difference": difference,
        }
        save("context_cache", torch.device(args.device), record)


if __name__ == "__main__":
    main()
