"""Which rank this process is, and the few things ranks say to each other outside FSDP.

A process that trains alone is a world of one: it imports nothing of torch.distributed and every
method here is the identity. Which samples a rank takes is a slice of the same global batch, so the
number of ranks changes results only by the order of floating-point sums.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kontext.errors import RecipeError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_PATIENCE = timedelta(minutes=10)  # a collective that takes longer has lost a rank


@dataclass(frozen=True)
class World:
    """One rank's view. `mesh` is None in a world of one, else ("shard",) or HSDP's two axes."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    mesh: DeviceMesh | None = None

    @property
    def leads(self) -> bool:
        """Whether this rank writes what only one may write."""
        return self.rank == 0

    def rows(self, count: int) -> range:
        """This rank's rows of a global batch of `count`: contiguous, sizes differ by at most 1."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all ranks, taken in float64; every rank must pass the same names."""
        if self.size == 1:
            return dict(values)
        import torch.distributed as dist

        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(numbers, group=self.channel("talk"))
        return dict(zip(values, numbers.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        return flag if self.size == 1 else self.sum({"flag": float(flag)})["flag"] > 0

    def from_first(self, number: int) -> int:
        """The number that rank 0 says, on all ranks."""
        return int(self.sum({"number": number if self.leads else 0})["number"])

    def channel(self, name: str) -> Any:
        """A gloo group of all ranks for one kind of talk; None in a world of one.

        CPU numbers never wait behind gradients there, and threads that each have a channel of
        their own cannot mix up their collectives. Its first use is a collective.
        """
        if self.size == 1:
            return None
        import torch.distributed as dist

        if name not in _groups:
            _groups[name] = dist.new_group(backend="gloo", timeout=_PATIENCE)
        return _groups[name]

    def wait(self) -> None:
        """Until every rank has come here."""
        self.any(False)


def whole(tensor: Tensor) -> Tensor:
    """The full value of a sharded tensor (a collective), or the tensor itself."""
    gathered: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return gathered


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, asked without importing torch.distributed."""
    return hasattr(tensor, "full_tensor")


def join(replicas: int = 1) -> World:
    """Join the process group that torchrun or Ray described in the environment.

    Args:
        replicas: HSDP: groups of ranks that hold a copy of the model each; 1 shards over all.

    Raises:
        RecipeError: the ranks cannot be divided into that many replicas.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else None
    if device is not None:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        # checkpoints and small talk go over gloo also where gradients go over NCCL
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    rank, size = dist.get_rank(), dist.get_world_size()
    if size % replicas:
        raise RecipeError(f"{size} ranks cannot be divided into {replicas} replicas")
    if replicas == 1:
        mesh = init_device_mesh(kind, (size,), mesh_dim_names=("shard",))
    else:
        names = ("replicate", "shard")
        mesh = init_device_mesh(kind, (replicas, size // replicas), mesh_dim_names=names)
    return World(rank, size, device or torch.device("cpu"), mesh)


def leave() -> None:
    """Leave the process group, if this process is in one."""
    import torch.distributed as dist

    if dist.is_initialized():
        _groups.clear()
        dist.destroy_process_group()


_groups: dict[str, Any] = {}
