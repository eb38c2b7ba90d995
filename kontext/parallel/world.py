"""Which rank this process is, and the few collectives that ranks need outside FSDP.

A process that trains alone is a world of one: it imports nothing of torch.distributed and every
method here is the identity. Which samples a rank takes is a slice of the same global batch, so the
number of ranks changes results only by the order of floating-point sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
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
    context: int = 1  # ranks in a row that share every sequence (Ulysses)
    sequence: Any = None  # their process group; None where `context` is 1
    launches: bool = False  # it only starts ranks: what it builds holds no weights

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0, which writes what only one rank may write."""
        return self.rank == 0

    def rows(self, count: int) -> range:
        """This rank's rows of a global batch of `count`: contiguous, sizes differ by at most 1.

        Ranks that share sequences have the same rows.
        """
        place, places = self.rank // self.context, self.size // self.context
        return range(count * place // places, count * (place + 1) // places)

    def parts(self, count: int, parts: int) -> list[range]:
        """This rank's rows of a global batch of `count`, cut into `parts` ranges on every rank."""
        rows = self.rows(count)
        edges = [rows.start + len(rows) * i // parts for i in range(parts + 1)]
        return [range(*pair) for pair in pairwise(edges)]

    def check_batch(self, size: int, parts: int = 1) -> None:
        """Raise RecipeError where a global batch of `size` leaves a rank or part without a row."""
        if size < self.size * parts:
            raise RecipeError(
                f"a batch of {size} is too small for {self.size} ranks"
                + (f" times {parts} parts" if parts > 1 else "")
            )

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sum each value over all ranks, in float64. Every rank must pass the same names.

        Ranks that share a sequence have the same values, which count once.
        """
        shares = {name: value / self.context for name, value in values.items()}
        return self._total(shares) if self.size > 1 else dict(values)

    def _total(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all ranks."""
        import torch.distributed as dist

        numbers = torch.tensor(list(values.values()), dtype=torch.float64)
        dist.all_reduce(numbers, group=self.channel("talk"))
        return dict(zip(values, numbers.tolist(), strict=True))

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Sum unsharded tensors over all ranks, in place, in one all-reduce."""
        if self.size == 1 or not tensors:
            return
        import torch.distributed as dist

        together = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(together)
        parts = torch.split(together, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def std(self, values: Tensor) -> Tensor:
        """Standard deviation of all ranks' values together, as `Tensor.std`."""
        if self.size == 1:
            return values.std()
        own = values.detach().double()
        sums = torch.stack((own.sum(), own.square().sum(), own.new_tensor(own.numel())))
        self.add([sums])
        total, squares, count = sums.unbind()
        return ((squares - total.square() / count) / (count - 1)).sqrt().to(values.dtype)

    def any(self, flag: bool) -> bool:
        """True on all ranks if `flag` is true on any."""
        return flag if self.size == 1 else self._total({"flag": float(flag)})["flag"] > 0

    def broadcast(self, number: int) -> int:
        """Rank 0's number, on all ranks."""
        if self.size == 1:
            return number
        return int(self._total({"number": number if self.is_leader else 0})["number"])

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give unsharded tensors rank 0's values on all ranks, in place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor, 0)

    def channel(self, name: str) -> Any:
        """A gloo group of all ranks for one purpose; None in a world of one.

        On it, small CPU sums do not wait for gradients, and threads that each have their own
        channel cannot mix up their collectives. The first call with a name is a collective.
        """
        if self.size == 1:
            return None
        import torch.distributed as dist

        if name not in _groups:
            _groups[name] = dist.new_group(backend="gloo", timeout=_PATIENCE)
        return _groups[name]


def full_tensor(tensor: Tensor) -> Tensor:
    """The full value of a sharded tensor (a collective), or the tensor itself."""
    gathered: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return gathered


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor. Does not import torch.distributed."""
    return hasattr(tensor, "full_tensor")


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, or the tensor itself."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def own_rows(tensor: Tensor) -> range:
    """Which rows of a sharded tensor this rank has; all of them of any other."""
    if not is_sharded(tensor):
        return range(tensor.shape[0])
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    return range(offset[0], offset[0] + shape[0])


def shard_like(like: Tensor, part: Tensor) -> Tensor:
    """The tensor of which `part` is this rank's rows, sharded as `like` is; `part` where it is not.

    All but the number of rows may differ from `like`: [R, ...] like [R, ...].
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    size = (like.shape[0], *part.shape[1:])
    stride = torch.empty(size, device="meta").stride()
    made: Tensor = DTensor.from_local(
        part,
        like.device_mesh,  # type: ignore[attr-defined]
        like.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=torch.Size(size),
        stride=stride,
    )
    return made


def join(replicas: int = 1, context: int = 1) -> World:
    """Join the process group that torchrun or Ray described in the environment.

    Args:
        replicas: HSDP: groups of ranks that hold a copy of the model each; 1 shards over all.
        context: neighbouring ranks that share every sequence.

    Raises:
        RecipeError: the ranks cannot be divided into that many replicas, or by `context`.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    kind, here = "cpu", torch.device("cpu")
    if torch.cuda.is_available():
        kind, here = "cuda", torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(here)
    if not dist.is_initialized():
        # checkpoints and small talk go over gloo also where gradients go over NCCL
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_PATIENCE)
    rank, size = dist.get_rank(), dist.get_world_size()
    if size % replicas:
        raise RecipeError(f"{size} ranks cannot be divided into {replicas} replicas")
    if size // replicas % context:
        raise RecipeError(f"{size // replicas} ranks cannot be divided by {context} for a sequence")
    shape = (size,) if replicas == 1 else (replicas, size // replicas)
    mesh = init_device_mesh(kind, shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    neighbours = dist.new_subgroups(context)[0] if context > 1 else None
    return World(rank, size, here, mesh, context, neighbours)


def leave() -> None:
    """Leave the process group, if this process is in one."""
    import torch.distributed as dist

    if dist.is_initialized():
        _groups.clear()
        dist.destroy_process_group()


_groups: dict[str, Any] = {}
