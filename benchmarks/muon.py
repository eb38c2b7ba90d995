"""Muon's update of the demo's two networks: ours beside torch's, taking turns in one run.

    python -m benchmarks.muon [--repeats 5] [--threads 2]

torch's Muon multiplies in bfloat16. Where the processor has no bf16 arithmetic, ours multiplies in
float32 (`kontext.parallel.muon`); elsewhere both are the same. Both get the parameters that our
optimiser gives to Muon, kernels of convolutions as matrices. Results go to benchmarks/results/.
"""

import argparse

import torch
from torch import nn
from torch.optim import Muon

from benchmarks.timing import ratio, save, take_turns
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.optim.build import MatrixMuon, build_optimizers
from schemas.recipes import load_recipe


def ours(model: nn.Module) -> MatrixMuon:
    """The optimiser of the model's hidden matrices, which have random gradients."""
    muon = build_optimizers(model, "muon", lr=1e-3)[0]
    assert isinstance(muon, MatrixMuon)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return muon


def theirs(muon: MatrixMuon) -> Muon:
    """torch's own optimiser of copies of the same matrices."""
    copies = []
    for group in muon.param_groups:
        for matrix in group["params"]:
            copy = nn.Parameter(matrix.detach().clone())
            copy.grad = torch.randn_like(copy)
            copies.append(copy)
    return Muon(copies, lr=1e-3, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")


def main(argv: list[str] | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(asked.threads)
    recipe, device, record = load_recipe("demo"), torch.device("cpu"), {}
    networks = {
        "flow": FluxTransformer(recipe.finetune.shape),
        "autoencoder": Autoencoder(recipe.autoencoder.shape),
    }
    for name, network in networks.items():
        muon = ours(network)
        runs = {"ours": muon.step, "torch": theirs(muon).step}
        times = take_turns(runs, device, asked.repeats, warmup=1)
        faster = ratio(times, "ours", "torch")
        print(f"{name} ({muon.products}): a Muon step {faster:.2f} x torch's")
        record[name] = {"products": str(muon.products), "ratio": faster, "seconds": times}
    save("muon", device, record)


if __name__ == "__main__":
    main()
