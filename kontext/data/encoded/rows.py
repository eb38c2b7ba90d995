"""Encoded rows: on disk or in memory, of one shape or of several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class MappedRows:
    """K encoded rows that stay on disk: what is asked for is read, converted and moved.

    Args:
        shards: mapped parts [k, …] of one dtype, in order; at least one. Rows of a shard have one
            shape, shards may differ in it.
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

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> torch.Size:
        """(K, …). Raises ValueError where rows differ in shape."""
        return torch.Size((len(self), *self._row_shape(range(len(self._shards)))))

    @property
    def shards(self) -> int:
        """Parts that the rows are stored in."""
        return len(self._shards)

    @property
    def row_shapes(self) -> list[torch.Size]:
        """The shape of each row [K]."""
        return [shard.shape[1:] for shard in self._shards for _ in range(len(shard))]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Rows [B] -> [B, …]. Raises IndexError where there is no such row.

        Raises ValueError for rows of different shapes.
        """
        rows = rows.cpu().contiguous()
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(self)):
            raise IndexError(f"a row outside of 0 to {len(self) - 1}")
        stored, pinned = self._shards[0].dtype, self.device.type == "cuda"
        shards = torch.bucketize(rows, self._ends, right=True)
        numbers = sorted(set(shards.tolist()))
        shape = self._row_shape(numbers or [0])
        found = torch.empty(len(rows), *shape, dtype=stored, pin_memory=pinned)
        for number in numbers:
            mine = torch.nonzero(shards == number).flatten()
            shard = self._shards[number]
            found[mine] = shard[rows[mine] - (self._ends[number] - len(shard))]
        return found.to(self.device, non_blocking=True).to(self.dtype)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> MappedRows:
        """The same rows, read onto `device` as `dtype` (as stored by default)."""
        return MappedRows(self._shards, device, dtype)

    def _row_shape(self, shards: Sequence[int]) -> torch.Size:
        shapes = {self._shards[number].shape[1:] for number in shards}
        if len(shapes) > 1:
            raise ValueError(f"rows of {len(shapes)} shapes make no batch")
        return next(iter(shapes))


Rows = Tensor | MappedRows  # encoded rows [K, …], asked for by a tensor on the CPU
_SAMPLED_VALUES = 2**28  # a gigabyte in float32


def row_shapes(rows: Rows) -> list[torch.Size]:
    """The shape of each row [K]."""
    return [rows.shape[1:]] * len(rows) if isinstance(rows, Tensor) else rows.row_shapes


def sampled(rows: Rows, chosen: Tensor | None = None) -> Tensor:
    """The chosen rows, or as many at even distances as a gigabyte holds: to measure on, float32.

    Args:
        chosen: int64 [B], which rows; all of them by default.

    Raises:
        ValueError: the rows differ in shape.
    """
    count = len(rows) if chosen is None else len(chosen)
    most = max(1, _SAMPLED_VALUES // max(1, rows.shape[1:].numel()))
    places = torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().long()
    return rows[places if chosen is None else chosen[places]].float()


def spread(rows: Rows) -> Tensor:
    """Standard deviation of all values, measured on as many rows as a gigabyte holds."""
    shapes = row_shapes(rows)
    kinds = sorted(set(shapes))
    if len(kinds) == 1:
        return sampled(rows).std()
    largest = max(shape.numel() for shape in kinds)
    step = -(-len(shapes) * largest // _SAMPLED_VALUES)
    places = [
        torch.tensor([place for place, own in enumerate(shapes) if own == shape][::step])
        for shape in kinds
    ]
    return torch.cat([rows[own].float().flatten() for own in places]).std()
