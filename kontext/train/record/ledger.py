"""The numerics ledger: the settings that decide what a run's numbers mean, one per line.

A weights file does not say with which timestep shift, eps or codec it was trained, and a mismatch
shows only as worse pictures. So every stage that makes or uses weights reads these lines from what
it has loaded, writes them next to its result, and stops where they differ from those of the stage
before, or of the checkpoint that it resumes from.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.optim import Optimizer

from kontext.errors import NumericsError

Ledger = dict[str, str]

# Lines about how the products are computed, not about what they mean: a device's own.
ARITHMETIC = (
    "device",
    "dtype: codec products",
    "dtype: optimiser products",
    "dtype: products",
    "kernel: attention",
)
ABSENT = "absent"


def codec_ledger(model: nn.Module, products: torch.dtype, device: torch.device) -> Ledger:
    """The lines of an autoencoder."""
    eps = {m.eps for m in model.modules() if isinstance(m, nn.GroupNorm)}
    return {
        "eps: codec norms": ", ".join(f"{value:g}" for value in sorted(eps)),
        "dtype: codec weights": dtype_names(p.dtype for p in model.parameters()),
        "dtype: codec products": dtype_name(products),
        "device": device.type,
    }


def optimizer_ledger(optimizers: Mapping[str, Optimizer]) -> Ledger:
    """The eps of every optimiser, under its name, and the dtype of Muon's products."""
    eps = {f"eps: optimiser {k}": f"{o.defaults['eps']:g}" for k, o in optimizers.items()}
    muon = [str(o.products).split(".")[-1] for o in optimizers.values() if hasattr(o, "products")]
    return {**eps, **({"dtype: optimiser products": muon[0]} if muon else {})}


def without_arithmetic(ledger: Mapping[str, str]) -> Ledger:
    """The ledger without the lines of `ARITHMETIC`, which may differ between devices."""
    return {name: value for name, value in ledger.items() if name not in ARITHMETIC}


def differences(
    one: Mapping[str, str], other: Mapping[str, str], shared: bool = False
) -> list[str]:
    """One line for every entry that is not the same in both, `name: one -> other`.

    With `shared`, entries that only one has are not looked at: the ledgers of two stages.
    """
    names = one.keys() & other.keys() if shared else one.keys() | other.keys()
    return [
        f"{name}: {one.get(name, ABSENT)} -> {other.get(name, ABSENT)}"
        for name in sorted(names)
        if one.get(name) != other.get(name)
    ]


def compare(
    one: Mapping[str, str], other: Mapping[str, str], whose: str, others: str, shared: bool = False
) -> None:
    """Stop where two ledgers differ; `shared` as in `differences`.

    Raises:
        NumericsError: with one line per difference.
    """
    if lines := differences(one, other, shared):
        heading = f"the numerics of {whose} are not those of {others}:"
        raise NumericsError("\n  ".join([heading, *lines]), tuple(lines))


def dtype_names(dtypes: Iterable[torch.dtype]) -> str:
    """Each dtype once, sorted by name."""
    return ", ".join(sorted({dtype_name(dtype) for dtype in dtypes}))


def dtype_name(dtype: torch.dtype) -> str:
    """The dtype's name without `torch.`: `bfloat16`."""
    return str(dtype).removeprefix("torch.")
