"""Muon where torch's own step does not serve: on sharded matrices, and without bf16 arithmetic.

Newton-Schulz needs the full matrix. So every sharded matrix's update is gathered once per step, and
every rank orthogonalises it; momentum stays sharded. The update is exactly that of a single
process. The extra cost is one fp32 all-gather of the hidden matrices per step.

torch's Muon multiplies in bfloat16 and cannot be told otherwise. A CPU without bf16 arithmetic
emulates that, tens of times slower than float32 (`python -m benchmarks.muon`), so there the same
iteration runs in float32.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Muon

from kontext.parallel.world import full_tensor, is_sharded


@torch.no_grad()
def muon_step(optimizer: Muon, products: torch.dtype) -> None:
    """One Muon update of plain or DTensor parameters; state names are those of `torch.optim.Muon`.

    Args:
        products: dtype of Newton-Schulz's products; bfloat16 is torch's own.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = optimizer.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter.grad)
            buffer = state["momentum_buffer"]
            buffer.lerp_(parameter.grad, 1 - group["momentum"])
            update = parameter.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(_like(parameter, _step_of(full_tensor(update), group, products)))


def _step_of(update: Tensor, group: dict[str, Any], products: torch.dtype) -> Tensor:
    """-lr * orthogonalised update of a whole matrix."""
    if products == torch.bfloat16:
        return _torch_step(update, group)
    return _float_step(update.to(products), group)


def _torch_step(update: Tensor, group: dict[str, Any]) -> Tensor:
    """By torch's own Muon, without momentum or decay, from zero."""
    moved = nn.Parameter(torch.zeros_like(update))
    moved.grad = update
    names = ("lr", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")
    options = {name: group[name] for name in names}
    Muon([moved], weight_decay=0.0, momentum=0.0, nesterov=False, **options).step()  # type: ignore[no-untyped-call]
    return moved.detach()


def _float_step(update: Tensor, group: dict[str, Any]) -> Tensor:
    """In the update's own dtype: Newton-Schulz as Jordan et al. 2024 published it.

    The rate is scaled as `match_rms_adamw` does (Liu et al. 2025, section 2.2).
    """
    a, b, c = group["ns_coefficients"]
    wide = update.T if update.shape[0] > update.shape[1] else update
    wide = wide / wide.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    turned = wide.T if update.shape[0] > update.shape[1] else wide
    rate: float = group["lr"] * 0.2 * math.sqrt(max(update.shape))
    return -rate * turned


def _like(parameter: Tensor, full: Tensor) -> Tensor:
    """This rank's part of a full matrix that all ranks hold: no communication."""
    if not is_sharded(parameter):
        return full
    from torch.distributed.tensor import DTensor, Replicate

    mesh = parameter.device_mesh  # type: ignore[attr-defined]
    everywhere = [Replicate()] * mesh.ndim
    spread = DTensor.from_local(full, mesh, everywhere, run_check=False)
    return spread.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
