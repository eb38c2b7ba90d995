"""Muon on sharded matrices: momentum stays sharded, each matrix is orthogonalised whole.

Newton-Schulz needs the full matrix. So every matrix's update is gathered once per step, and every
rank orthogonalises it. The update is exactly that of a single process. The extra cost is one fp32
all-gather of the hidden matrices per step.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Muon

from kontext.parallel.world import full_tensor


@torch.no_grad()
def sharded_step(optimizer: Muon) -> None:
    """One Muon update of DTensor parameters; state names are those of `torch.optim.Muon`."""
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
            parameter.add_(_like(parameter, _step_of(full_tensor(update), group)))


def _step_of(update: Tensor, group: dict[str, Any]) -> Tensor:
    """-lr * orthogonalised update: torch's own Muon, without momentum or decay, from zero."""
    moved = nn.Parameter(torch.zeros_like(update))
    moved.grad = update
    names = ("lr", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn")
    options = {name: group[name] for name in names}
    Muon([moved], weight_decay=0.0, momentum=0.0, nesterov=False, **options).step()  # type: ignore[no-untyped-call]
    return moved.detach()


def _like(parameter: Tensor, full: Tensor) -> Tensor:
    """This rank's part of a full matrix that all ranks hold: no communication."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = parameter.device_mesh  # type: ignore[attr-defined]
    everywhere = [Replicate()] * mesh.ndim
    spread = DTensor.from_local(full, mesh, everywhere, run_check=False)
    return spread.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
