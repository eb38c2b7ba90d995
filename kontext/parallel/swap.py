"""Block swap: frozen weights of some blocks wait in the host's memory until their block computes.

They come for its forward pass and for its backward pass, and make room when another block's come.
Two of the swapped blocks are on the device at any time: the one at work, and the one after it,
which is copied meanwhile (on CUDA from pinned memory, in a stream of its own). What is frozen never
changes, so nothing is copied back. Numbers are those without swapping, bit for bit.

On a CPU the same code copies from memory to memory. No GPU was at hand: CUDA's path is not run yet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kontext.parallel.recompute import blocks

ON_DEVICE = 2  # swapped blocks that are there at the same time


def swapped_blocks(model: nn.Module, count: int) -> list[nn.Module]:
    """`count` of the model's blocks, evenly spread: the others' work hides the copies."""
    every = blocks(model)
    return [every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count)]


def waiting_weights(model: nn.Module, count: int) -> frozenset[str]:
    """Names of the parameters that wait in the host's memory where `count` blocks are swapped."""
    swapped = swapped_blocks(model, count)
    frozen = {id(p) for block in swapped for p in block.parameters() if not p.requires_grad}
    return frozenset(name for name, p in model.named_parameters() if id(p) in frozen)


def swap_blocks(model: nn.Module, count: int, device: torch.device) -> None:
    """Let the frozen weights of `count` blocks wait in the host's memory, in place.

    Only `forward` is replaced. A waiting parameter has its shape, and no memory on `device`. Call
    it last, when the weights have been read: what waits may be on the host already.
    """
    if not count:
        return
    swapped = swapped_blocks(model, count)
    cuda: Any = torch.cuda  # types of its constructors are not told
    copies = cuda.Stream(device) if device.type == "cuda" else None
    turns = _Turns([_Weights(block, device, copies) for block in swapped])
    for index, block in enumerate(swapped):
        block.forward = partial(_in_turn, turns, index, block.forward)


class _Weights:
    """The frozen weights of one block, on the host, and room for them on the device."""

    def __init__(self, block: nn.Module, device: torch.device, copies: Any) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._copies = copies  # CUDA's stream for them, else None
        self._copied: Any = None  # when the last copy has ended
        self._there = False
        for parameter in block.parameters():
            if parameter.requires_grad:
                continue
            host = parameter.data.cpu()
            if self._copies is not None and not host.is_pinned():
                host = host.pin_memory()
            room = torch.empty_like(host, device=device)
            room.untyped_storage().resize_(0)
            parameter.data = room
            self._pairs.append((room, host))

    def load(self) -> None:
        """Begin to copy them to the device."""
        if self._there:
            return
        self._there = True
        for room, host in self._pairs:
            # a storage of its own size again: what autograd keeps are views of this storage
            room.untyped_storage().resize_(host.nbytes)
        if self._copies is None:
            self._copy()
            return
        # the room may be where kernels that are queued still read
        self._copies.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copies):
            self._copy()
            self._copied = self._copies.record_event()

    def wait(self) -> None:
        """Let the work that is queued from now on find them there."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)

    def release(self) -> None:
        """Give their room on the device back."""
        if not self._there:
            return
        self._there = False
        self.wait()  # the room must not be used again before the copy has ended
        for room, _ in self._pairs:
            room.untyped_storage().resize_(0)

    def _copy(self) -> None:
        for room, host in self._pairs:
            # `data` has a version of its own: for autograd the weight has not changed
            room.data.copy_(host, non_blocking=True)


class _Turns:
    """Whose weights are on the device: those at work, and those that come after them."""

    def __init__(self, weights: list[_Weights]) -> None:
        self._weights = weights

    def forward(self, index: int) -> None:
        """Block `index` computes; after the last one comes its backward pass, or the first one."""
        following = index + 1
        if following == len(self._weights):
            following = index - 1 if torch.is_grad_enabled() else 0
        self._need(index, following)

    def backward(self, index: int) -> None:
        """Block `index` computes gradients; after the first one comes its next forward pass."""
        self._need(index, index - 1 if index else 1)

    def _need(self, index: int, following: int) -> None:
        for other, weights in enumerate(self._weights):
            if other not in (index, following):
                weights.release()
        self._weights[index].load()
        self._weights[index].wait()
        if 0 <= following < len(self._weights):
            self._weights[following].load()


def _in_turn(
    turns: _Turns, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """A block's forward; its backward pass, with what it recomputes, begins with `_Ahead`'s."""
    turns.forward(index)
    made = forward(*args, **kwargs)
    if isinstance(made, Tensor):
        return _Ahead.apply(turns, index, made)[0]
    return _Ahead.apply(turns, index, *made)


class _Ahead(torch.autograd.Function):
    """The identity; its backward runs when all gradients of a block's results are there."""

    @staticmethod
    def forward(ctx: Any, turns: _Turns, index: int, *made: Tensor) -> tuple[Tensor, ...]:
        ctx.turns, ctx.index = turns, index
        ctx.set_materialize_grads(False)
        return tuple(each.view_as(each) for each in made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.turns.backward(ctx.index)
        return None, None, *gradients
