"""Attention patterns of a sequence [text | target | contexts], and the noise level of each token.

*Joint* is FLUX.1 Kontext's: every token attends to every token, all at the target's noise level.
*Cached context* is our option (`TransformerShape.cached_context`): text and target attend to
everything; the contexts of a sample attend to each other only, and are modulated at t = 0. Nothing
of theirs then depends on the step, so their keys and values can be computed once per edit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from kontext.parallel.attention import attention

KeysValues = tuple[Tensor, Tensor]  # each [B, H, L, D], normalised and turned


class Conditioning(NamedTuple):
    """The noise levels in a sequence of L tokens, as conditioning vectors."""

    silu_vec: Tensor  # [B, S, hidden]: SiLU of the S conditioning vectors
    token: Tensor | None = None  # [L] int64: which of the S is each token's; None: S = 1

    def of(self, rows: slice) -> Conditioning:
        """The same for some of the tokens."""
        return self if self.token is None else Conditioning(self.silu_vec, self.token[rows])

    def per_token(self, vectors: Tensor) -> Tensor:
        """[B, S, X] -> [B, L, X], or [B, 1, X] where all tokens share one."""
        return vectors if self.token is None else vectors.index_select(1, self.token)


@dataclass(frozen=True)
class AttentionPattern:
    """Which tokens attend to which.

    mask: bool, broadcastable to [B, H, Lq, Lk], True = may attend: what the first `main` tokens
        (None: all) attend to among all keys; None = everything.
    context_mask: what the tokens after those attend to among themselves; they see nothing else.
    kept: where given, the keys and values of every attention are appended to it.
    """

    mask: Tensor | None = None
    main: int | None = None
    context_mask: Tensor | None = None
    kept: list[KeysValues] | None = field(default=None, compare=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, past: KeysValues | None = None) -> Tensor:
        """Attention of q, k, v [B, H, L, D] under this pattern: [B, Lq, H*D].

        `past` are keys and values that come after k and v, with the batch of q or of one.
        """
        if self.kept is not None:
            self.kept.append((k, v))
        if past is not None:
            k, v = (
                torch.cat((x, p.to(x.dtype).expand(len(x), -1, -1, -1)), dim=2)
                for x, p in zip((k, v), past, strict=True)
            )
        if self.main is None:
            return attention(q, k, v, self.mask)
        n = self.main
        seen = attention(q[:, :, :n], k, v, self.mask)
        own = attention(q[:, :, n:], k[:, :, n:], v[:, :, n:], self.context_mask)
        return torch.cat((seen, own), dim=1)

    def of(self, rows: slice) -> AttentionPattern:
        """The pattern of the queries `rows`, which are among the first `main`."""
        mask = self.mask
        if mask is not None and mask.shape[2] > 1:
            mask = mask[:, :, rows]
        return replace(self, mask=mask, main=None, context_mask=None)


def attention_pattern(attention_mask: Tensor | None, main: int | None) -> AttentionPattern:
    """The pattern of a batch.

    Args:
        attention_mask: True = may be attended; keys [B, Lk], or pairs [B, Lq, Lk].
        main: with cached context, how many tokens come before the contexts.
    """
    if attention_mask is None:
        return AttentionPattern(main=main)
    mask = attention_mask[:, None, None] if attention_mask.dim() == 2 else attention_mask[:, None]
    if main is None:
        return AttentionPattern(mask)
    rows = mask if mask.shape[2] == 1 else mask[:, :, :main]
    own = mask[..., main:] if mask.shape[2] == 1 else mask[:, :, main:, main:]
    return AttentionPattern(rows, main, own)


@dataclass(frozen=True)
class ContextCache:
    """Keys and values of an edit's contexts, one pair per block (see `FluxTransformer`).

    At FLUX.1's size they take 2.9 GB in bf16 for one context of 1024 x 1024.
    """

    layers: tuple[KeysValues, ...]

    @property
    def length(self) -> int:
        """Context tokens."""
        return self.layers[0][0].shape[2] if self.layers else 0
