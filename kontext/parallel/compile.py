"""Compile a transformer block by block, for a closed set of sequence lengths.

Blocks of a kind share their graphs, so start-up does not grow with depth; what surrounds them stays
eager. Shapes are static: each length has its own graphs, made at its first use. A length outside
the set is an error, not one more compilation in the middle of the work. Only the number of tokens
counts, not height and width: Kontext's 17 sizes have 9 target lengths.
"""

from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from kontext.errors import RecipeError
from kontext.parallel.recompute import blocks

_GRAPHS_PER_LENGTH = 8  # of a block: last block or not, training or not, cached or not


def closed_lengths(targets: Iterable[int], text: int, contexts: int = 1) -> tuple[int, ...]:
    """Lengths of [text | target | contexts], each context as long as its target, 0…N of them.

    The editor brings a context to the size nearest to its aspect ratio, which is the target's
    too, so these are all the lengths of edits without a size of their own.
    """
    sizes = sorted(set(targets))
    return tuple(sorted({text + n * (1 + k) for n in sizes for k in range(contexts + 1)}))


def compile_blocks(model: nn.Module, lengths: Iterable[int], *, backend: str = "inductor") -> None:
    """Compile the blocks of a `FluxTransformer` in place; names and weights stay as they are.

    Args:
        lengths: all sequence lengths [text | target | contexts] that will be used; cached contexts
            count.
        backend: torch.compile's.

    Raises:
        RecipeError: no lengths; later, from the model, a sequence of another length.
    """
    known = frozenset(lengths)
    if not known:
        raise RecipeError("no sequence lengths to compile for")
    config: Any = import_module("torch._dynamo.config")
    # reached silently otherwise, and the blocks would run uncompiled from there on
    need = _GRAPHS_PER_LENGTH * len(known)
    config.recompile_limit = max(config.recompile_limit, need)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * need)
    for block in blocks(model):
        # forwards, not calls: hooks such as FSDP's stay outside of the graphs
        block.forward = torch.compile(block.forward, dynamic=False, backend=backend)
    model.register_forward_pre_hook(partial(_check, known), with_kwargs=True)


def _check(
    known: frozenset[int], _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    given = {**dict(zip(("tokens", "ids", "text"), args, strict=False)), **kwargs}
    tokens: Tensor = given["tokens"]
    text: Tensor = given["text"]
    cache = given.get("cache")
    length = text.shape[1] + tokens.shape[1] + (cache.length if cache is not None else 0)
    if length not in known:
        listed = ", ".join(map(str, sorted(known)))
        raise RecipeError(f"the model is compiled for {listed} tokens, not for {length}")
