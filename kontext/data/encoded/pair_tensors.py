"""Pairs as tensors: what the flow and the distillation draw their batches from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kontext.data.buckets import MULTIPLE
from kontext.data.encoded.rows import Rows, row_shapes
from kontext.errors import RecipeError
from kontext.parallel.flops import Tokens

NO_CONTEXT = -1
Grid = tuple[int, int]  # (rows, columns) of an image in tokens
Shape = tuple[Grid, ...]  # of a pair: its target's, its context's, those of its references


@dataclass(frozen=True)
class PairTensors:
    """Encoded pairs. P pairs over M images and K texts; the indices point into the banks."""

    latents: Rows  # M rows [C, h, w] float32, normalised
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
    source: Tensor | None = None  # [P] int64 into `sources`; None where nobody wrote it down
    sources: tuple[str, ...] = ()

    @cached_property
    def grids(self) -> Tensor:
        """(rows, columns) of each image in tokens [M, 2]."""
        sides = torch.tensor([shape[1:] for shape in row_shapes(self.latents)])
        return sides.div(2, rounding_mode="floor")

    @property
    def channels(self) -> int:
        """Of a latent."""
        return int(row_shapes(self.latents)[0][0])

    @cached_property
    def shapes(self) -> list[Shape]:
        """The shape of each pair [P]."""
        grids: list[Grid] = [(int(rows), int(columns)) for rows, columns in self.grids.tolist()]
        pictures = torch.stack((self.target, self.context), dim=1)
        if self.references is not None:
            pictures = torch.cat((pictures, self.references), dim=1)
        kinds: dict[Shape, Shape] = {}  # one object for all pairs of a shape
        found = (
            tuple(grids[picture] for picture in row if picture != NO_CONTEXT)
            for row in pictures.tolist()
        )
        return [kinds.setdefault(shape, shape) for shape in found]

    def grid(self, pairs: Tensor) -> Grid:
        """(rows, columns) in tokens of the targets of pairs [B].

        Raises ValueError where there are none, or they differ.
        """
        found = {self.shapes[int(pair)][0] for pair in pairs}
        if len(found) != 1:
            raise ValueError(f"targets of {len(found)} sizes make no batch")
        return next(iter(found))

    @property
    def target_tokens(self) -> list[int]:
        """All numbers of tokens that a target has: what the timestep shift depends on."""
        return sorted({tokens_of(shape[0]) for shape in set(self.shapes)})

    def lengths(self, pairs: Tensor) -> Tokens:
        """Token counts of pairs of one shape."""
        target, *contexts = self.shapes[int(pairs[0])]
        context = sum(map(tokens_of, contexts))
        return Tokens(self.text_tokens.shape[1], tokens_of(target), context)

    @property
    def edit_tokens(self) -> Tokens:
        """Token counts of one edit with one context, on average over all sizes."""
        edits = self.edits()
        targets = self.target[edits] if len(edits) else self.target
        mean = round(float(self.grids[targets].prod(dim=1).double().mean()))
        return Tokens(self.text_tokens.shape[1], mean, mean)

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

    def by_shape(self, pairs: Tensor) -> list[Tensor]:
        """Places in `pairs` [B], one tensor per shape: fewest contexts first, then by size."""
        found: dict[Shape, list[int]] = {}
        for place, pair in enumerate(pairs.tolist()):
            found.setdefault(self.shapes[pair], []).append(place)
        return [torch.tensor(found[shape]) for shape in sorted(found, key=_in_order)]

    def singles(self) -> Tensor:
        """Indices of text-to-image pairs."""
        return torch.nonzero(self.context == NO_CONTEXT).flatten()


def tokens_of(grid: Grid) -> int:
    """Tokens of an image of (rows, columns)."""
    return grid[0] * grid[1]


def _in_order(shape: Shape) -> tuple[int, Shape]:
    return len(shape), shape


def padded(references: Sequence[Sequence[int]]) -> Tensor | None:
    """References of P pairs as one tensor [P, R]; None where no pair has any."""
    most = max(map(len, references), default=0)
    if not most:
        return None
    return torch.tensor([[*row, *[NO_CONTEXT] * (most - len(row))] for row in references])


@dataclass(frozen=True)
class Batch:
    """One homogeneous batch: all of one shape. Contexts may have other sizes than targets."""

    target: Tensor  # [B, C, h, w]
    context: Tensor | None  # [B, C, h, w]: what is edited
    tokens: Tensor  # [B, L, D]
    pooled: Tensor  # [B, D]
    references: tuple[Tensor, ...] = ()  # [B, C, h, w] each: what the edit refers to besides

    @property
    def grid(self) -> Grid:
        """(rows, columns) of the targets in tokens."""
        return self.target.shape[2] // 2, self.target.shape[3] // 2

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
    shapes or numbers of contexts (see `PairTensors.by_shape`).
    """
    chosen = data.text[pairs] if text is None else text
    counts = data.context_counts()[pairs]
    count = int(counts[0]) if len(counts) else 0
    if with_context and bool((counts != count).any()):
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
    size_weights: Mapping[str, float] | None = None,
    source_weights: Mapping[str, float] | None = None,
) -> Tensor:
    """Probability of drawing each of `pairs`, so that category shares follow the weights.

    Categories not named weigh 1; inside a category all pairs are equally likely, or with
    `magnitude_balance` 1 all magnitudes of edits, which must then be pairs with a context.
    `size_weights` (832x1248, by targets) hold inside a category; sizes not named weigh 1. With
    `source_weights` each source has a share by its weight (1 where it is not named), whatever its
    number of pairs; all else then holds inside a source.

    Raises:
        RecipeError: a size is named that no target of `pairs` has, or a source that is not there;
            or all of `pairs` weigh 0.
    """
    category = data.category[pairs]
    counts = torch.bincount(category, minlength=len(data.categories)).clamp(min=1)
    wanted = torch.tensor([category_weights.get(name, 1.0) for name in data.categories])
    weights = (wanted / counts)[category]
    if magnitude_balance:
        rarity = _rarity(data, pairs) ** magnitude_balance
        weights = _evenly(weights, rarity, category, counts)
    if size_weights:
        weights = _evenly(weights, _by_size(data, pairs, size_weights), category, counts)
    if source_weights:
        weights = weights * _by_source(data, pairs, weights, source_weights)
    total = weights.sum()
    if len(pairs) and not float(total):
        kind = "edit" if bool((data.context[pairs] != NO_CONTEXT).any()) else "text-to-image pair"
        raise RecipeError(
            f"category_weights, size_weights or source_weights: every {kind} of the training "
            "split weighs 0, so none can be drawn"
        )
    return weights / total


def _evenly(weights: Tensor, factors: Tensor, category: Tensor, counts: Tensor) -> Tensor:
    """Weights times factors [B] over the factors' mean in the category, which keeps its share."""
    mean = torch.zeros(len(counts)).index_add_(0, category, factors) / counts
    return weights * factors / mean.clamp(min=1e-12)[category]


def _by_size(data: PairTensors, pairs: Tensor, weights: Mapping[str, float]) -> Tensor:
    names = [f"{MULTIPLE * columns}x{MULTIPLE * rows}" for rows, columns in sizes_of(data, pairs)]
    if unknown := sorted(set(weights) - set(names)):
        there = ", ".join(sorted(set(names)))
        raise RecipeError(f"size_weights: no edit's target is {unknown[0]}; there are {there}")
    return torch.tensor([weights.get(name, 1.0) for name in names])


def _by_source(
    data: PairTensors, pairs: Tensor, weights: Tensor, wanted: Mapping[str, float]
) -> Tensor:
    """Factors [B] that give each source its share of the weights [B]."""
    if data.source is None:
        raise RecipeError("source_weights: these pairs do not say their source; run encode again")
    if unknown := sorted(set(wanted) - set(data.sources)):
        there = ", ".join(data.sources)
        raise RecipeError(f"source_weights: no pair is of {unknown[0]}; there are {there}")
    source = data.source[pairs]
    total = torch.zeros(len(data.sources)).index_add_(0, source, weights)
    share = torch.tensor([wanted.get(name, 1.0) for name in data.sources])
    return (share / total.clamp(min=1e-12))[source]


def sizes_of(data: PairTensors, pairs: Tensor) -> list[Grid]:
    """The size of the target of each of `pairs` [B], in tokens."""
    return [data.shapes[pair][0] for pair in pairs.tolist()]


class SizedDraw:
    """Batches of pairs with replacement, each of one kind (of one size), by the pairs' weights.

    A batch's kind is drawn by the weight of all its pairs, and its pairs by their own, so every
    pair comes as often as its weight says: sizes and categories keep theirs.

    Args:
        weights: of the pairs [P], which sum to 1; None: all the same.
        kinds: of each pair.
    """

    def __init__(self, weights: Tensor | None, kinds: Sequence[Hashable]) -> None:
        self._count, self._weights = len(kinds), weights
        rows: dict[Hashable, list[int]] = {}
        for row, kind in enumerate(kinds):
            rows.setdefault(kind, []).append(row)
        self._rows = [torch.tensor(own) for own in rows.values()]
        each = [len(own) if weights is None else weights[own].sum() for own in self._rows]
        self._odds = torch.tensor([float(odds) for odds in each], dtype=torch.float64)

    def __call__(self, count: int, draw: torch.Generator) -> Tensor:
        """Rows [count] of the pairs that make a batch."""
        rows = None
        if len(self._rows) > 1:
            rows = self._rows[int(torch.multinomial(self._odds, 1, generator=draw))]
        if self._weights is None:
            size = self._count if rows is None else len(rows)
            picks = torch.randint(size, (count,), generator=draw)
        else:
            weights = self._weights if rows is None else self._weights[rows]
            picks = torch.multinomial(weights, count, replacement=True, generator=draw)
        return picks if rows is None else rows[picks]


_MAGNITUDES = 8


def edit_magnitudes(data: PairTensors, pairs: Tensor, chunk: int = 4096) -> Tensor:
    """How much each edit changes: root mean square [P] of target - context latents, on the CPU.

    A context of another size than its target lies on nothing of it: there all of the target counts.
    """
    found = torch.zeros(len(pairs))
    for rows in data.by_shape(pairs):
        shape = data.shapes[int(pairs[rows[0]])]
        for start in range(0, len(rows), chunk):
            part = rows[start : start + chunk]
            apart = data.latents[data.target[pairs[part]]]
            if shape[1] == shape[0]:
                apart = apart - data.latents[data.context[pairs[part]]]
            found[part] = apart.square().mean(dim=(1, 2, 3)).sqrt().cpu()
    return found


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
