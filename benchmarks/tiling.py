"""The autoencoder in tiles: what differs from one piece, and how much memory it takes.

    python -m benchmarks.tiling [--side 1024] [--tile 256] [--width 32] [--model FOLDER] [--save]

One image and its latents pass the same weights three ways in one process: in one piece, in our
tiles, and in diffusers' overlapping tiles (`enable_tiling`, 512 pixels or half the side) after
export to its layout. Differences from one piece are in levels of 255 for decoded pixels, after
clamping and rounding; the seam is the largest step of that error from one row or column of pixels
to the next, on average along it, which is what an eye would see as an edge. Memory is the peak
above the start of each call: of the process on a CPU (VmHWM, Linux only), of the allocator on a
GPU. Without `--model` the weights are random, and pixels are scaled to a picture's spread.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import save, seconds, synchronise
from kontext.edit.weights.folder import load_model_folder
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.autoencoder.tiling import TILE
from kontext.models.files.convert import autoencoder_config, rules_for, to_diffusers
from schemas.sections.models import AutoencoderShape


def build(args: argparse.Namespace) -> Autoencoder:
    """The trained autoencoder of a model folder, or a random one whose norms and biases matter."""
    if args.model is not None:
        return load_model_folder(args.model, args.device).autoencoder
    torch.manual_seed(0)
    ae = Autoencoder(AutoencoderShape(ch=args.width, norm_groups=min(32, args.width)))
    with torch.no_grad():
        for parameter in ae.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return ae.eval().to(args.device)


def picture(side: int) -> Tensor:
    """[1, 3, side, side] in [-1, 1]: a smooth sky over a rough ground, unlike from tile to tile."""
    draw = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-1, 1, side)
    down, right = torch.meshgrid(ramp, ramp, indexing="ij")
    smooth = torch.stack([down, right, down * right])
    rough = torch.rand(3, side, side, generator=draw) * 2 - 1
    return torch.where(down > 0.1 * torch.sin(9 * right), 0.6 * rough, 0.8 * smooth)[None]


def peak(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float, float]:
    """The result, peak memory above the start in MiB, and seconds."""
    made: list[Tensor] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        took = seconds(lambda: made.append(run()), device)
        return made[0], (torch.cuda.max_memory_allocated(device) - before) / 2**20, took
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _status("VmRSS")
    took = seconds(lambda: made.append(run()), device)
    return made[0], (_status("VmHWM") - before) / 2**10, took


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def levels(pixels: Tensor) -> Tensor:
    """Pixels as they are saved: 0 to 255, rounded."""
    return pixels.float().add(1).mul(127.5).round().clamp(0, 255)


def compare(pixels: Tensor, whole: Tensor) -> dict[str, float]:
    """Largest and mean difference in levels, and the largest step of the error between pixels."""
    error = levels(pixels) - levels(whole)
    seam = max(error.diff(dim=d).mean(dim=5 - d).abs().max().item() for d in (2, 3))
    return {"max": error.abs().max().item(), "mean": error.abs().mean().item(), "seam": seam}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--side", type=int, default=1024, help="of the image, in pixels")
    parser.add_argument("--tile", type=int, default=TILE)
    parser.add_argument("--width", type=int, default=32, help="channels; FLUX.1 has 128")
    parser.add_argument("--model", type=Path, help="model folder with trained weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", action="store_true", help="write results/*.json")
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write JSON where asked."""
    from diffusers import AutoencoderKL

    args = parse(argv)
    device = torch.device(args.device)
    ae = build(args)
    theirs = AutoencoderKL(**{k: v for k, v in autoencoder_config(ae).items() if k[0] != "_"})
    theirs.load_state_dict(to_diffusers(ae.state_dict(), rules_for(ae)))
    theirs.eval().to(device).enable_tiling()
    # by default their tile is the published sample_size, 1024: too large to cut a small image
    theirs.tile_sample_min_size = min(512, args.side // 2)
    theirs.tile_latent_min_size = theirs.tile_sample_min_size // ae.factor
    images = picture(args.side).to(device)
    latents = ae.encode(images)
    raw = latents / ae.scale + ae.shift
    # a random decoder's pixels are spread as a picture's, so that levels of 255 mean something
    spread = 1.0 if args.model is not None else 0.5 / ae.decode(latents).std().item()
    mean = theirs.encode(images).latent_dist.mean
    ours_z = ae.encode(images, args.tile)
    deviation = {
        "ours": (ours_z - latents).abs().max().item() / latents.std().item(),
        "diffusers": (mean - raw).abs().max().item() / raw.std().item(),
    }
    ways: dict[str, Callable[[], Tensor]] = {
        "one piece": lambda: ae.decode(latents),
        "our tiles": lambda: ae.decode(latents, args.tile),
        "diffusers": lambda: theirs.decode(raw).sample,
    }
    rows: dict[str, dict[str, float]] = {}
    whole = ae.decode(latents) * spread
    for name, run in ways.items():
        synchronise(device)
        pixels, memory, took = peak(run, device)
        rows[name] = {**compare(pixels * spread, whole), "MiB": memory, "seconds": took}
        print(
            f"decode {name:10s} max {rows[name]['max']:6.1f}  mean {rows[name]['mean']:8.4f}  "
            f"seam {rows[name]['seam']:7.4f} of 255, peak {memory:8.0f} MiB, {took:6.2f} s"
        )
    for name, value in deviation.items():
        print(f"encode {name:10s} largest difference {value:.1e} standard deviations")
    print(
        f"memory, one piece / our tiles: {rows['one piece']['MiB'] / rows['our tiles']['MiB']:.2f}"
    )
    if args.save:
        arguments = {k: str(v) for k, v in vars(args).items()}
        save("tiling", device, {"arguments": arguments, "decode": rows, "encode": deviation})


if __name__ == "__main__":
    main()
