"""FSDP2 for the transformer: one shard group per block, bf16 gathered, fp32 reduced.

Tested with gloo ranks on CPUs: losses, dtypes of collectives, HSDP meshes, Ulysses. Not run yet:
NCCL, and what prefetch and offloading gain on a GPU.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from kontext.errors import RecipeError
from kontext.parallel.compile import compile_blocks
from kontext.parallel.recompute import blocks, offload_blocks, recompute_blocks
from kontext.parallel.ulysses import share_sequences
from kontext.parallel.world import World, is_sharded, local_part, own_rows
from schemas.sections.training import ParallelConfig


class Stored(Protocol):
    """A tensor that can be read row by row."""

    @property
    def name(self) -> str:
        """Its name in the state dict."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Its rows from `start` to before `stop`."""


def shard(
    model: nn.Module,
    config: ParallelConfig,
    world: World,
    dtype: torch.dtype,
    lengths: Iterable[int] = (),
    *,
    whole: bool = False,
) -> nn.Module:
    """Prepare a transformer for training in this world, in place; returns it.

    Weights must be equal on all ranks. Ranks gather them in `dtype` and add gradients in float32;
    masters stay float32. The gradient is the sum over ranks, never their mean: losses are weighted
    by sample beforehand.

    Args:
        dtype: of the products.
        lengths: all sequence lengths that will be used, where `config.compile` is on.
        whole: every rank keeps all weights. Those that are quantised cannot be sharded: ranks
            gather weights in `dtype`.

    Raises:
        RecipeError: the ranks cannot share a sequence as the recipe says.
    """
    if config.context > 1:
        if config.compile:
            raise RecipeError("parallel.compile and parallel.context do not go together")
        if world.sequence is None:
            raise RecipeError(f"parallel.context={config.context} needs that many ranks in a row")
        share_sequences(model, world.sequence)
    recompute_blocks(model, config.recompute)
    if config.compile:
        compile_blocks(model, lengths, backend=config.compile)
    if config.offload:
        offload_blocks(model)
    if world.mesh is None or whole:
        return model
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=dtype,
        reduce_dtype=torch.float32,
        # the model casts what it must; a cast here would round rotary tables and timesteps
        cast_forward_inputs=False,
    )
    order = blocks(model)
    for block in order:
        # the last block is needed again at once, by the backward pass
        fully_shard(
            block, mesh=world.mesh, mp_policy=policy, reshard_after_forward=block is not order[-1]
        )
    fully_shard(model, mesh=world.mesh, mp_policy=policy)
    for module in (model, *order):
        assert isinstance(module, FSDPModule)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows neither AVG nor PREMUL_SUM
        module.set_gradient_divide_factor(1.0)
    _prefetch(order, config.prefetch)
    return model


@torch.no_grad()
def fill(
    model: nn.Module,
    entries: Iterable[Stored],
    device: torch.device,
    on_host: Collection[str] = (),
) -> None:
    """Give a model on the meta device memory on `device`, and read its weights into it.

    Of what is sharded a rank reads its own rows alone.

    Args:
        on_host: parameters that get the host's memory (pinned for CUDA), and none on `device`.

    Raises:
        KeyError: an entry that the model does not have.
        ValueError: the model has more than the entries.
    """
    if on_host:
        _to_empty(model, device, on_host)
    else:
        model.to_empty(device=device)
    empty = model.state_dict()
    for entry in entries:
        target = empty.pop(entry.name)
        rows = own_rows(target)
        local_part(target).copy_(entry.rows(rows.start, rows.stop))
    if empty:
        raise ValueError(f"no weights for {', '.join(empty)}")


def _to_empty(model: nn.Module, device: torch.device, on_host: Collection[str]) -> None:
    """`Module.to_empty` with two places."""
    pinned = device.type == "cuda"
    for name, parameter in [*model.named_parameters()]:
        if name in on_host:
            made = torch.empty_like(parameter, device="cpu", pin_memory=pinned)
        else:
            made = torch.empty_like(parameter, device=device)
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        module.register_parameter(own, nn.Parameter(made, parameter.requires_grad))


def gather_weights_for(model: nn.Module, method: str) -> None:
    """Let `model.<method>` run with its sharded weights gathered, as `forward` does."""
    if any(is_sharded(parameter) for parameter in model.parameters()):
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(model, method)


def _prefetch(order: list[nn.Module], ahead: int) -> None:
    """Gather the next `ahead` blocks while one computes, in both directions."""
    for index, block in enumerate(order):
        block.set_modules_to_forward_prefetch(order[index + 1 : index + 1 + ahead])  # type: ignore[operator]
        before = order[max(0, index - ahead) : index]
        block.set_modules_to_backward_prefetch(before[::-1])  # type: ignore[operator]
