"""Activation checkpointing: what a block keeps for its backward pass, and what it computes again.

`full` keeps a block's inputs only. `selective` also keeps attention's outputs and every other
matrix product, which cost much time for little memory; the rule is torchtitan's. `offload_blocks`
moves what is kept to the host's memory. Gradients are those of `none`, bit for bit: the same
operations run on the same numbers.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from kontext.parallel.device_kind import kind_of, on_the_host

Recompute = Literal["none", "selective", "full"]

_LEAST = 1 << 16  # bytes: smaller tensors stay on the device
_aten = torch.ops.aten
_MATMULS = {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default}
_ATTENTION = {
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
}


def recompute_blocks(model: nn.Module, mode: Recompute) -> None:
    """Make every block of `model.double_blocks` and `.single_blocks` recompute, in place.

    Only `forward` is replaced: names in the state dict stay, and FSDP's hooks run outside of it.
    """
    if mode == "none":
        return
    contexts = {} if mode == "full" else {"context_fn": _selective}
    for block in blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, **contexts)


def offload_blocks(model: nn.Module) -> None:
    """Keep every block's saved activations in the host's memory, in place.

    Copies run in the order of the device's own work, to pinned memory: they cost transfers, and
    leave one block's activations on the device. Call after `recompute_blocks`, which then keeps
    blocks' inputs there.
    """
    for block in blocks(model):
        block.forward = partial(_offloaded, block.forward)


def _offloaded(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(_to_host, _to_device):
        return forward(*args, **kwargs)


def _to_host(tensor: Tensor) -> Tensor | tuple[torch.device, Tensor]:
    """A copy on the host; weights, which are kept anyhow, and small tensors as they are."""
    weight = isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter)
    if weight or tensor.nbytes < _LEAST:
        return tensor
    pinned = tensor.device.type == "cuda"
    with on_the_host():
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
    return tensor.device, host.copy_(tensor, non_blocking=True)


def _to_device(kept: Tensor | tuple[torch.device, Tensor]) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    device, host = kept
    # a CPU that stands in for a device gets a copy of its own too
    return host.to(device, non_blocking=True, copy=kind_of(device) != "cpu")


def blocks(model: nn.Module) -> list[nn.Module]:
    """The transformer's blocks, in the order in which they run."""
    return [*model.get_submodule("double_blocks"), *model.get_submodule("single_blocks")]  # type: ignore[misc]


def _selective() -> Any:
    """Contexts of one block's forward and recomputation; matmuls are counted from its start."""
    return create_selective_checkpoint_contexts(_policy())  # type: ignore[no-untyped-call]


def _policy() -> Callable[..., CheckpointPolicy]:
    seen = {True: 0, False: 0}  # forward and recomputation each count for themselves

    def decide(ctx: SelectiveCheckpointContext, op: Any, *args: Any, **kwargs: Any) -> Any:
        if op in _MATMULS:
            seen[ctx.is_recompute] += 1
            if seen[ctx.is_recompute] % 2 == 0:
                return CheckpointPolicy.PREFER_RECOMPUTE
            return CheckpointPolicy.MUST_SAVE
        if op in _ATTENTION:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return decide
