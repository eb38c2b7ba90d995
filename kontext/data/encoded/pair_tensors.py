"""Pairs as tensors: what the flow and the distillation draw their batches from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kontext.parallel.flops import Tokens

NO_CONTEXT = -1


class MappedRows:
    """K encoded rows that stay on disk: what is asked for is read, converted and moved.

    Args:
        shards: mapped parts [k, …] of one dtype and row shape, in order; at least one.
        device, dtype: of what is read; the CPU and the stored dtype by default.
    """

    def __init__(
        self,
        shards: Sequence[Tensor],
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._shards = shards
        self._ends = torch.tensor([len(shard) for shard in shards]).cumsum(0)
        self.device = device or torch.device("cpu")
        self.dtype = dtype or shards[0].dtype
        self.shape = torch.Size((int(self._ends[-1]), *shards[0].shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows [B] -> [B, …]. Raises IndexError where there is no such row."""
        rows = rows.cpu()
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(self)):
            raise IndexError(f"a row outside of 0 to {len(self) - 1}")
        stored, pinned = self._shards[0].dtype, self.device.type == "cuda"
        found = torch.empty(len(rows), *self.shape[1:], dtype=stored, pin_memory=pinned)
        shards = torch.bucketize(rows, self._ends, right=True)
        for number in sorted(set(shards.tolist())):
            mine = torch.nonzero(shards == number).flatten()
            shard = self._shards[number]
            found[mine] = shard[rows[mine] - (self._ends[number] - len(shard))]
        return found.to(self.device, non_blocking=True).to(self.dtype)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> MappedRows:
        """The same rows, read onto `device` as `dtype` (as stored by default)."""
        return MappedRows(self._shards, device, dtype)


Rows = Tensor | MappedRows  # encoded rows [K, …], asked for by a tensor on the CPU
_SAMPLED_VALUES = 2**28  # a gigabyte in float32


def sampled(rows: Rows, chosen: Tensor | None = None) -> Tensor:
    """The chosen rows, or as many at even distances as a gigabyte holds: to measure on, float32.

    Args:
        chosen: int64 [B], which rows; all of them by default.
    """
    count = rows.shape[0] if chosen is None else len(chosen)
    most = max(1, _SAMPLED_VALUES // max(1, rows.shape[1:].numel()))
    places = torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()
    return rows[places if chosen is None else chosen[places]].float()


@dataclass(frozen=True)
class PairTensors:
    """Encoded pairs. P pairs over M images and K texts; the indices point into the banks."""

    latents: Rows  # [M, C, h, w] float32, normalised
    text_tokens: Rows  # [K, L, D]
    text_pooled: Rows  # [K, D]
    target: Tensor  # [P] int64
    context: Tensor  # [P] int64, NO_CONTEXT for text-to-image
    text: Tensor  # [P] int64
    category: Tensor  # [P] int64 into `categories`
    categories: tuple[str, ...]
    empty_text: int  # the encoded empty prompt: the null condition, never zeros
    # [P, R] int64: pictures that an edit refers to besides the one it changes, the rest NO_CONTEXT
    references: Tensor | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of an image in tokens."""
        return self.latents.shape[2] // 2, self.latents.shape[3] // 2

    @property
    def target_tokens(self) -> int:
        """Tokens of a target: what the timestep shift depends on."""
        return self.grid[0] * self.grid[1]

    @property
    def edit_tokens(self) -> Tokens:
        """Token counts of one edit with one context."""
        return Tokens(self.text_tokens.shape[1], self.target_tokens, self.target_tokens)

    def empty_prompt(self) -> tuple[Tensor, Tensor]:
        """Token states [1, L, D] and pooled vector [1, D] of the encoded empty prompt."""
        row = torch.tensor([self.empty_text])
        return self.text_tokens[row].float(), self.text_pooled[row].float()

    def edits(self) -> Tensor:
        """Indices of pairs with a context."""
        return torch.nonzero(self.context != NO_CONTEXT).flatten()

    def plain_edits(self) -> Tensor:
        """Indices of pairs with a context and no reference."""
        return torch.nonzero(self.context_counts() == 1).flatten()

    def context_counts(self) -> Tensor:
        """How many pictures each pair's target comes with [P]: context and references."""
        counts = (self.context != NO_CONTEXT).long()
        if self.references is not None:
            counts = counts + (self.references != NO_CONTEXT).sum(dim=1)
        return counts

    def by_context_count(self, pairs: Tensor) -> list[Tensor]:
        """Places in `pairs` [B], one tensor per number of contexts, fewest first."""
        counts = self.context_counts()[pairs]
        return [torch.nonzero(counts == n).flatten() for n in sorted(set(counts.tolist()))]

    def singles(self) -> Tensor:
        """Indices of text-to-image pairs."""
        return torch.nonzero(self.context == NO_CONTEXT).flatten()


def padded(references: Sequence[Sequence[int]]) -> Tensor | None:
    """References of P pairs as one tensor [P, R]; None where no pair has any."""
    most = max(map(len, references), default=0)
    if not most:
        return None
    return torch.tensor([[*row, *[NO_CONTEXT] * (most - len(row))] for row in references])


@dataclass(frozen=True)
class Batch:
    """One homogeneous batch: all with equally many context images, or all without."""

    target: Tensor  # [B, C, h, w]
    context: Tensor | None  # [B, C, h, w]: what is edited
    tokens: Tensor  # [B, L, D]
    pooled: Tensor  # [B, D]
    references: tuple[Tensor, ...] = ()  # [B, C, h, w] each: what the edit refers to besides

    @property
    def contexts(self) -> tuple[Tensor, ...]:
        """The pictures of context 1, 2, … in the model's sequence."""
        return () if self.context is None else (self.context, *self.references)

    def select(self, rows: Tensor) -> Batch:
        """The batch reduced to (or reordered by) `rows`."""
        context = None if self.context is None else self.context[rows]
        references = tuple(picture[rows] for picture in self.references)
        return Batch(self.target[rows], context, self.tokens[rows], self.pooled[rows], references)


def gather(
    data: PairTensors, pairs: Tensor, text: Tensor | None = None, with_context: bool = True
) -> Batch:
    """The batch for pair indices [B]; `text` overrides the text indices.

    `with_context=False` leaves the contexts out. Raises ValueError where pairs have different
    numbers of contexts (see `PairTensors.by_context_count`).
    """
    chosen = data.text[pairs] if text is None else text
    counts = data.context_counts()[pairs]
    count = int(counts[0]) if len(counts) else 0
    if bool((counts != count).any()):
        raise ValueError("a batch must not mix pairs with different numbers of contexts")
    shown = count if with_context else 0
    none = torch.zeros(len(pairs), 0, dtype=torch.int64)
    extra = (none if data.references is None else data.references[pairs])[:, : max(0, shown - 1)]
    return Batch(
        target=data.latents[data.target[pairs]],
        context=data.latents[data.context[pairs]] if shown else None,
        tokens=data.text_tokens[chosen].float(),
        pooled=data.text_pooled[chosen].float(),
        references=tuple(data.latents[rows] for rows in extra.T),
    )


def sampling_weights(
    data: PairTensors,
    pairs: Tensor,
    category_weights: Mapping[str, float],
    magnitude_balance: float = 0.0,
) -> Tensor:
    """Probability of drawing each of `pairs`, so that category shares follow the weights.

    Categories not named weigh 1; inside a category all pairs are equally likely, or with
    `magnitude_balance` 1 all magnitudes of edits, which must then be pairs with a context.
    """
    category = data.category[pairs]
    counts = torch.bincount(category, minlength=len(data.categories)).clamp(min=1)
    wanted = torch.tensor([category_weights.get(name, 1.0) for name in data.categories])
    weights = (wanted / counts)[category]
    if magnitude_balance:
        rarity = _rarity(data, pairs) ** magnitude_balance
        mean = torch.zeros(len(counts)).index_add_(0, category, rarity) / counts
        weights = weights * rarity / mean.clamp(min=1e-12)[category]
    return weights / weights.sum()


_MAGNITUDES = 8


def edit_magnitudes(data: PairTensors, pairs: Tensor, chunk: int = 4096) -> Tensor:
    """How much each edit changes: root mean square [P] of target - context latents, on the CPU."""
    found = []
    for start in range(0, len(pairs), chunk):
        part = pairs[start : start + chunk]
        apart = data.latents[data.target[part]] - data.latents[data.context[part]]
        found.append(apart.square().mean(dim=(1, 2, 3)).sqrt().cpu())
    return torch.cat(found) if found else torch.zeros(0)


def _rarity(data: PairTensors, pairs: Tensor) -> Tensor:
    """1 / how many of `pairs` share the category and one of eight equal steps of log magnitude."""
    size = edit_magnitudes(data, pairs).clamp(min=1e-4).log()
    if not len(size):
        return size
    span = (size.max() - size.min()).clamp(min=1e-6)
    step = ((size - size.min()) / span * _MAGNITUDES).long().clamp(max=_MAGNITUDES - 1)
    cell = data.category[pairs] * _MAGNITUDES + step
    counts = torch.bincount(cell, minlength=len(data.categories) * _MAGNITUDES)
    return 1.0 / counts[cell]
