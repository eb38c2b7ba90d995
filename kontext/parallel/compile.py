"""Compile a transformer block by block, for a closed set of sequence lengths.

Blocks of a kind share their graphs, so start-up does not grow with depth; what surrounds them stays
eager. Shapes are static: each length has its own graphs, made at its first use. A length outside
the set is an error, not one more compilation in the middle of the work. Only the number of tokens
counts, not height and width: Kontext's 17 sizes have 9 target lengths.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from kontext.errors import KontextError

_GRAPHS_PER_LENGTH = 8  # of a block: last block or not, training or not, cached or not


class LengthError(KontextError):
    """A sequence whose length the model was not compiled for."""


def closed_lengths(targets: Iterable[int], text: int, contexts: int = 1) -> tuple[int, ...]:
    """Lengths of [text | target | contexts], each context as long as its target, 0…N of them.

    The editor brings a context to the size nearest to its aspect ratio, which is the target's
    too, so these are all the lengths of edits without a size of their own.
    """
    sizes = sorted(set(targets))
    return tuple(sorted({text + n * (1 + k) for n in sizes for k in range(contexts + 1)}))


class CompiledBlocks:
    """A model whose blocks have been compiled in place; names and weights stay as they are."""

    def __init__(self, model: nn.Module, lengths: Iterable[int], backend: str) -> None:
        self.lengths = frozenset(lengths)
        if not self.lengths:
            raise LengthError("no sequence lengths to compile for")
        self.used: set[int] = set()
        self._blocks = [
            b for part in ("double_blocks", "single_blocks") for b in _part(model, part)
        ]
        config: Any = import_module("torch._dynamo.config")
        # reached silently otherwise, and the blocks would run uncompiled from there on
        need = _GRAPHS_PER_LENGTH * len(self.lengths)
        config.recompile_limit = max(config.recompile_limit, need)
        config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * need)
        # forwards, not calls: hooks such as FSDP's stay outside of the graphs
        self._own = [block.__dict__.get("forward") for block in self._blocks]
        for block in self._blocks:
            block.forward = torch.compile(block.forward, dynamic=False, backend=backend)
        self._hook = model.register_forward_pre_hook(self._check, with_kwargs=True)

    def _check(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("tokens", "ids", "text")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        tokens: Tensor = given["tokens"]
        text: Tensor = given["text"]
        cache = given.get("cache")
        length = text.shape[1] + tokens.shape[1] + (cache.length if cache is not None else 0)
        if length not in self.lengths:
            known = ", ".join(map(str, sorted(self.lengths)))
            raise LengthError(f"the model is compiled for {known} tokens, not for {length}")
        self.used.add(length)

    def remove(self) -> None:
        """Let the blocks run uncompiled again, at any length."""
        self._hook.remove()
        for block, own in zip(self._blocks, self._own, strict=True):
            del block.forward
            if own is not None:
                block.forward = own


def compile_blocks(
    model: nn.Module, lengths: Iterable[int], *, backend: str = "inductor"
) -> CompiledBlocks:
    """Compile the blocks of a `FluxTransformer` in place.

    Args:
        lengths: all sequence lengths [text | target | contexts] that will be used; cached contexts
            count.
        backend: torch.compile's.

    Raises:
        LengthError: no lengths; later, from the model, a sequence of another length.
    """
    return CompiledBlocks(model, lengths, backend)


def _part(model: nn.Module, name: str) -> list[nn.Module]:
    return list(model.get_submodule(name).children())
