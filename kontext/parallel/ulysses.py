"""Ulysses context parallelism: ranks that share a sequence, for N references at full size.

Every rank of a group holds an equal part of the tokens of the text, of the target and of each
context, and computes everything but attention on it. For attention an all-to-all exchange gives
each rank all tokens of some of the heads, and a second one its own tokens back (Jacobs et al.,
arXiv 2309.14509). A rank's tokens have the layout of a whole sequence, so the model does not know
of it; their order does not matter to attention without a mask.

A rank's gradient is its own tokens' part; FSDP's sum over all ranks is the whole.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kontext.errors import RecipeError
from kontext.parallel.recompute import blocks

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class _Sharing:
    """The group whose ranks share the sequence that is being computed; None: nobody does."""

    group: Any = None


def share_sequences(model: nn.Module, group: Any) -> None:
    """Let the ranks of `group` share every sequence of a FluxTransformer, in place.

    All of them call the model with the same arguments and get the same, whole result.

    Raises:
        RecipeError: the heads cannot be divided among them; later, from the model, the tokens.
    """
    ranks = group.size()
    heads = model.shape.num_heads  # type: ignore[union-attr]
    if heads % ranks:
        raise RecipeError(f"{ranks} ranks cannot share a sequence of {heads} heads evenly")
    for block in blocks(model):
        block.forward = partial(_in_group, group, block.forward)
    model.register_forward_pre_hook(partial(_cut, group), with_kwargs=True)
    model.register_forward_hook(lambda _, __, out: _Whole.apply(out, group))


def exchange_and_attend(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`attend(q, k, v)` over whole sequences, also where ranks hold parts of them.

    Args:
        q, k, v: this rank's tokens, [B, H, L, D] each.

    Returns:
        [B, Lq, H*D].
    """
    group = _Sharing.group
    if group is None:
        return attend(q, k, v)
    ranks = group.size()
    out = attend(*(_to_heads(x, ranks, group) for x in (q, k, v)))  # [B, ranks * Lq, H/ranks * D]
    parts = torch.unflatten(out, 1, (ranks, -1)).transpose(0, 1)
    return _Exchange.apply(parts, group).permute(1, 2, 0, 3).flatten(2)  # type: ignore[no-any-return]


def _to_heads(x: Tensor, ranks: int, group: Any) -> Tensor:
    """This rank's tokens of all heads -> all ranks' of its heads, [B, H/ranks, L * ranks, D]."""
    parts = torch.unflatten(x, 1, (ranks, -1)).transpose(0, 1)  # [ranks, B, H/ranks, L, D]
    return _Exchange.apply(parts, group).permute(1, 2, 0, 3, 4).flatten(2, 3)  # type: ignore[no-any-return]


class _Exchange(torch.autograd.Function):
    """x[i] goes to rank i, and what rank i sent comes out as [i]: its own transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        import torch.distributed as dist

        ctx.group, sent = group, x.contiguous()
        came = torch.empty_like(sent)
        dist.all_to_all_single(came, sent, group=group)
        return came

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(grads[0], ctx.group), None


class _Whole(torch.autograd.Function):
    """The parts [B, L, D] of all ranks as one sequence; backward takes this rank's part again.

    All ranks go on with the same numbers, so their gradients are the same too, and are not added.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        import torch.distributed as dist

        ctx.group, ctx.length = group, x.shape[1]
        parts = [
            torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(group.size())
        ]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        start = ctx.group.rank() * ctx.length
        return grads[0][:, start : start + ctx.length], None


def _cut(
    group: Any, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """This rank's part of the model's arguments."""
    given = {**dict(zip(("tokens", "ids", "text", "pooled", "timesteps"), args, strict=False))}
    given.update(kwargs)
    if any(given.get(name) is not None for name in ("attention_mask", "packing", "cache")):
        raise ValueError("a shared sequence takes no mask, packing or cache")
    target, ids = given["target_length"], given["ids"]
    # ids of a context start where its first axis changes; all images of a batch have the same
    edges = _images(ids if ids.dim() == 2 else ids[0], target)
    for name, axis in (("tokens", 1), ("ids", ids.dim() - 2)):
        images = given[name].split(edges, dim=axis)
        given[name] = torch.cat([_own(group, image, axis, "image") for image in images], dim=axis)
    given["text"] = _own(group, given["text"], 1, "text")
    given["target_length"] = target // group.size()
    return (), given


def _images(ids: Tensor, target: int) -> list[int]:
    """Tokens of the target and of each context, from their positions [N, 3]."""
    _, counts = torch.unique_consecutive(ids[target:, 0], return_counts=True)
    return [target, *counts.tolist()]


def _own(group: Any, x: Tensor, axis: int, what: str) -> Tensor:
    ranks = group.size()
    if x.shape[axis] % ranks:
        raise RecipeError(
            f"{ranks} ranks cannot share {x.shape[axis]} {what} tokens evenly: change "
            "parallel.context, the resolution or encode.text_length"
        )
    part: Tensor = x.chunk(ranks, dim=axis)[group.rank()]
    return part


def _in_group(group: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A block's forward, or its recomputation in the backward pass."""
    with _sharing(group):
        return forward(*args, **kwargs)


@contextmanager
def _sharing(group: Any) -> Iterator[None]:
    before, _Sharing.group = _Sharing.group, group
    try:
        yield
    finally:
        _Sharing.group = before
