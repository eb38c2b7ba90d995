"""Packed sequences: several documents in one row, each token seeing its own document only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

Run = tuple[int, int]  # (document, how many consecutive tokens belong to it)


@dataclass(frozen=True)
class Side:
    """The queries, or the keys, of a packed sequence of L tokens in D documents."""

    document: Tensor  # [L] int64: the document of each token
    order: Tensor  # [L] int64: tokens by document, inside a document as they come
    starts: Tensor  # [D + 1] int32: where each document starts in that order
    longest: int

    @classmethod
    def of(cls, runs: Sequence[Run], count: int, device: torch.device | str = "cpu") -> Side:
        """The side whose tokens are `runs` one after the other, over `count` documents.

        A document may come in several runs, and may be empty.
        """
        names, repeats = zip(*runs, strict=True) if runs else ((), ())
        document = torch.tensor(names, dtype=torch.int64).repeat_interleave(
            torch.tensor(repeats, dtype=torch.int64)
        )
        lengths = torch.bincount(document, minlength=count).tolist()
        return cls(
            document=document.to(device),
            order=document.argsort(stable=True).to(device),
            starts=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device),
            longest=max(lengths, default=0),
        )


@dataclass(frozen=True)
class Documents:
    """Which documents the queries and the keys of one packed row belong to."""

    queries: Side
    keys: Side

    @classmethod
    def of(
        cls,
        queries: Sequence[Run],
        keys: Sequence[Run],
        count: int,
        device: torch.device | str = "cpu",
    ) -> Documents:
        """From the runs of both sides; see `Side.of`."""
        return cls(Side.of(queries, count, device), Side.of(keys, count, device))

    @cached_property
    def mask(self) -> Tensor:
        """The same as a mask: bool [1, 1, Lq, Lk], True = may attend. Needs Lq·Lk bytes."""
        return (self.queries.document[:, None] == self.keys.document[None, :])[None, None]
