"""What int8 and fp8 weights cost: the velocity's relative error against bf16, and bytes saved.

    python benchmarks/quantize.py [--hidden 512] [--weights MODEL_FOLDER] [--device cpu]

float32 is the truth; the error of bf16 is printed beside those of the quantised models, which have
bf16 activations too, so that the part that quantisation adds can be told from bf16's own. Without
--weights the model is random, at FLUX.1's proportions. Results go to benchmarks/results/.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from kontext.edit.weights.folder import load_model_folder
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.quantize import quantize
from schemas.sections.models import TransformerShape

RESULTS = Path(__file__).parent / "results"
LEVELS = (0.1, 0.4, 0.7, 1.0)


def random_model(hidden: int) -> FluxTransformer:
    """19 + 38 blocks cut to 2 + 4, head width 128, weights of the size that training leaves."""
    shape = TransformerShape(
        vec_in_dim=384,
        context_in_dim=384,
        hidden_size=hidden,
        num_heads=hidden // 128,
        depth=2,
        depth_single_blocks=4,
        guidance_embed=False,
    )
    torch.manual_seed(0)
    model = FluxTransformer(shape)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def velocities(model: FluxTransformer, side: int, device: str) -> Tensor:
    """The model's answers to fixed inputs at four noise levels, float32."""
    draw = torch.Generator().manual_seed(1)
    shape, n = model.shape, side * side
    guidance = torch.full((1,), 2.5, device=device) if shape.guidance_embed else None
    ids = sequence_ids((side, side), [(side, side)], torch.device(device))
    found = []
    for level in LEVELS:
        given = [
            torch.randn(1, *size, generator=draw).to(device)
            for size in (
                (2 * n, shape.in_channels),
                (20, shape.context_in_dim),
                (shape.vec_in_dim,),
            )
        ]
        time = torch.full((1,), level, device=device)
        out = model(given[0], ids, *given[1:], time, target_length=n, guidance=guidance)
        found.append(out.float().cpu())
    return torch.stack(found)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters as they are held, scales of quantised ones included."""
    return sum(_bytes(parameter.data) for parameter in model.parameters())


def _bytes(tensor: torch.Tensor) -> int:
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or type(tensor) in (torch.Tensor, nn.Parameter):
        return tensor.numel() * tensor.dtype.itemsize
    names, _ = flatten()
    return sum(_bytes(getattr(tensor, name)) for name in names)


def measure(model: FluxTransformer, side: int, device: str) -> list[dict[str, float | str]]:
    """One row per precision: relative error of the velocity, bytes, share of bf16's bytes."""
    truth = velocities(model.float().to(device), side, device)
    rows: list[dict[str, float | str]] = []
    half = 0
    for name in ("bf16", "int8", "fp8"):
        made = copy.deepcopy(model).to(torch.bfloat16)
        if name != "bf16":
            quantize(made, "int8" if name == "int8" else "fp8")
        size = weight_bytes(made)
        half = half or size
        error = (velocities(made, side, device) - truth).norm() / truth.norm()
        rows.append({"weights": name, "error": float(error), "bytes": size, "share": size / half})
    return rows


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=512, help="width of the random model")
    parser.add_argument("--weights", type=Path, help="model folder instead of random weights")
    parser.add_argument("--side", type=int, default=8, help="tokens along a side of the image")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.weights:
        model = load_model_folder(args.weights).transformer
    else:
        model = random_model(args.hidden)
    rows = measure(model, args.side, args.device)
    base = float(rows[0]["error"])
    for row in rows:
        print(
            f"{row['weights']:5} relative error {float(row['error']):.5f} "
            f"({float(row['error']) / base:.2f} x bf16's), "
            f"{float(row['bytes']) / 1e6:.1f} MB ({float(row['share']):.2f} x bf16's)"
        )
    RESULTS.mkdir(exist_ok=True)
    result = {"weights": str(args.weights or f"random, hidden {args.hidden}"), "rows": rows}
    text = json.dumps({**result, "torch": torch.__version__}, indent=1) + "\n"
    (RESULTS / f"quantize-{args.device}.json").write_text(text)


if __name__ == "__main__":
    main()
