"""Who sees what in a sequence [text | targets | contexts], and which noise level a token is at.

Three layouts share one description. *Joint* is FLUX.1 Kontext's: everybody sees everybody, all at
the target's noise level. *Cached context* is our option (`TransformerShape.cached_context`): text
and target see everything; the contexts of a sample see each other and nothing else, and are
modulated at t = 0. Nothing of theirs then depends on the step, so their keys and values can be
computed once per edit. They see each other, not each itself alone, because a cache lasts for one
instruction and its references anyway. *Packed* puts several samples in one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from kontext.parallel.attention import Mask, attention
from kontext.parallel.documents import Documents, Run

KeysValues = tuple[Tensor, Tensor]  # each [B, H, L, D], normalised and turned


class Moment(NamedTuple):
    """The noise levels in a sequence."""

    silu_vec: Tensor  # [B, S, hidden]: SiLU of the S conditioning vectors
    token: Tensor | None = None  # [L] int64: which of the S is each token's; None: S = 1

    def of(self, rows: slice) -> Moment:
        """The same for some of the tokens."""
        return self if self.token is None else Moment(self.silu_vec, self.token[rows])

    def per_token(self, vectors: Tensor) -> Tensor:
        """[B, S, X] -> [B, L, X], or [B, 1, X] where all tokens share one."""
        return vectors if self.token is None else vectors.index_select(1, self.token)


@dataclass(frozen=True)
class Sight:
    """Who sees what.

    mask: what the first `main` tokens (None: all) see among all keys; None = everything.
    own: what the tokens after those see among themselves; they see nothing else.
    kept: where given, the keys and values of every attention are appended to it.
    """

    mask: Mask = None
    main: int | None = None
    own: Mask = None
    kept: list[KeysValues] | None = field(default=None, compare=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, past: KeysValues | None = None) -> Tensor:
        """Attention of q, k, v [B, H, L, D] under this sight: [B, Lq, H*D].

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
        own = attention(q[:, :, n:], k[:, :, n:], v[:, :, n:], self.own)
        return torch.cat((seen, own), dim=1)

    def of(self, rows: slice) -> Sight:
        """The sight of `rows`, which are among the first `main`. Not for packed sequences."""
        assert not isinstance(self.mask, Documents), "see Packing.target_sight"
        one_row = self.mask is None or self.mask.shape[2] == 1
        mask = self.mask if one_row or self.mask is None else self.mask[:, :, rows]
        return replace(self, mask=mask, main=None, own=None)


def batch_sight(attention_mask: Tensor | None, main: int | None) -> Sight:
    """The sight in a batch of like samples.

    Args:
        attention_mask: True = may be attended; keys [B, Lk], or pairs [B, Lq, Lk].
        main: with cached context, how many tokens come before the contexts.
    """
    if attention_mask is None:
        return Sight(main=main)
    mask = attention_mask[:, None, None] if attention_mask.dim() == 2 else attention_mask[:, None]
    if main is None:
        return Sight(mask)
    rows = mask if mask.shape[2] == 1 else mask[:, :, :main]
    own = mask[..., main:] if mask.shape[2] == 1 else mask[:, :, main:, main:]
    return Sight(rows, main, own)


@dataclass(frozen=True)
class ContextCache:
    """Keys and values of an edit's contexts, one pair per block (see `FluxTransformer`)."""

    layers: tuple[KeysValues, ...]

    @property
    def length(self) -> int:
        """Context tokens."""
        return self.layers[0][0].shape[2] if self.layers else 0

    @property
    def nbytes(self) -> int:
        """Memory: at FLUX.1's size 2.9 GB in bf16 for one context of 1024 x 1024."""
        return sum(x.nbytes for layer in self.layers for x in layer)


class Lengths(NamedTuple):
    """Token counts of one sample of a packed sequence."""

    text: int
    target: int
    contexts: int = 0  # of all its context images together


@dataclass(frozen=True)
class Packing:
    """Several samples in one row [texts | targets | contexts], each part sample after sample."""

    samples: tuple[Lengths, ...]

    @property
    def target_length(self) -> int:
        """Tokens of all targets."""
        return sum(s.target for s in self.samples)

    @property
    def length(self) -> int:
        """Tokens of the whole row."""
        return sum(sum(s) for s in self.samples)

    def _runs(self, part: int) -> list[Run]:
        return [(index, sample[part]) for index, sample in enumerate(self.samples)]

    def sight(self, apart: bool, device: torch.device) -> Sight:
        """Each token sees its own sample; contexts, where `apart`, each other alone."""
        main, contexts = self._runs(0) + self._runs(1), self._runs(2)
        keys, count = main + contexts, len(self.samples)
        if not apart:
            return Sight(Documents.of(keys, keys, count, device))
        return Sight(
            Documents.of(main, keys, count, device),
            sum(n for _, n in main),
            Documents.of(contexts, contexts, count, device),
        )

    def target_sight(self, device: torch.device) -> Sight:
        """What the targets alone see: their sample."""
        keys = self._runs(0) + self._runs(1) + self._runs(2)
        return Sight(Documents.of(self._runs(1), keys, len(self.samples), device))

    def moments(self, apart: bool, device: torch.device) -> Tensor:
        """Which vector is each token's [L]: its sample's, contexts `apart` those after them."""
        shift = len(self.samples) if apart else 0
        runs = self._runs(0) + self._runs(1) + [(i + shift, n) for i, n in self._runs(2)]
        names, repeats = (torch.tensor(x) for x in zip(*runs, strict=True))
        return names.repeat_interleave(repeats).to(device)


class Sample(NamedTuple):
    """One sample by itself, as `FluxTransformer` takes it, without the batch dimension."""

    tokens: Tensor  # [N, C]: [target | contexts]
    ids: Tensor  # [N, 3]
    text: Tensor  # [L, D]
    pooled: Tensor  # [P]
    target_length: int


@dataclass(frozen=True)
class Packed:
    """Samples of different sizes, texts and context counts as one row."""

    tokens: Tensor  # [1, sum N, C]
    ids: Tensor  # [sum N, 3]
    text: Tensor  # [1, sum L, D]
    pooled: Tensor  # [S, P]
    packing: Packing

    def split(self, targets: Tensor) -> list[Tensor]:
        """The model's output [1, sum targets, C] sample by sample, each [target_length, C]."""
        return list(torch.split(targets[0], [s.target for s in self.packing.samples]))


def pack_samples(samples: Sequence[Sample]) -> Packed:
    """Put samples into one row, in the order given."""
    if not samples:
        raise ValueError("no samples to pack")

    def images(part: str) -> Tensor:
        values = [(getattr(s, part), s.target_length) for s in samples]
        return torch.cat([x[:n] for x, n in values] + [x[n:] for x, n in values])

    lengths = (
        Lengths(len(s.text), s.target_length, len(s.tokens) - s.target_length) for s in samples
    )
    return Packed(
        tokens=images("tokens")[None],
        ids=images("ids"),
        text=torch.cat([s.text for s in samples])[None],
        pooled=torch.stack([s.pooled for s in samples]),
        packing=Packing(tuple(lengths)),
    )
