"""One rank of many that are not there: FSDP's own code over a group that sends nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from kontext.errors import KontextError
from kontext.parallel.world import World

CHANGES_RESULTS = False  # counts


class RehearsedWorld(World):
    """The rank with the most rows. Sums over ranks are its own numbers."""

    def _total(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(values)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Weights are the same everywhere: there are none."""


@contextmanager
def rehearsed_world(
    gpus: int, replicas: int = 1, context: int = 1, sharded: bool = True
) -> Iterator[World]:
    """A world of `gpus` ranks for a rehearsal; a process group of PyTorch's backend `fake`.

    Args:
        replicas: groups of ranks that hold a model each, where that divides the ranks.
        context: ranks that share every sequence, where that divides the ranks of a replica.
        sharded: whether models are laid out over the ranks.

    Raises:
        KontextError: this process is a rank already.
    """
    if gpus == 1:
        yield World()
        return
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise KontextError("a process that trains with others cannot plan for several GPUs")
    replicas = replicas if gpus % replicas == 0 else 1
    context = context if gpus // replicas % context == 0 else 1
    shape = (gpus,) if replicas == 1 else (replicas, gpus // replicas)
    dist.init_process_group("fake", rank=0, world_size=gpus, store=FakeStore())
    try:
        with warnings.catch_warnings():
            # PyTorch's about the model's result, which nobody changes in place
            warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
            names = ("replicate", "shard")[-len(shape) :]
            mesh = init_device_mesh("cpu", shape, mesh_dim_names=names) if sharded else None
            group = dist.new_subgroups(context)[0] if context > 1 else None
            yield RehearsedWorld(gpus - 1, gpus, mesh=mesh, context=context, sequence=group)
    finally:
        dist.destroy_process_group()
