"""Rows of earlier banks, taken where they are of the same content by the same encoder."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kontext.data.encoded.banks import Bank, Entries

Encode = Callable[[Sequence[int]], dict[str, Tensor]]  # of entries at these places, [k, …] each


class Reused:
    """Encodes only what no earlier bank holds.

    Args:
        entries: what is wanted.
        earlier: banks of tensors like those that `encode` makes, newest first; those of another
            encoder are left aside.
        encode: makes the others.
    """

    def __init__(self, entries: Entries, earlier: Sequence[Bank], encode: Encode) -> None:
        self._encode = encode
        self._banks = [bank for bank in earlier if bank.encoder == entries.encoder]
        # of each entry: the bank that holds it, and the row there; bank -1 for none
        self._bank = torch.full((len(entries.keys),), -1)
        self._row = torch.zeros(len(entries.keys), dtype=torch.int64)
        for number, bank in enumerate(self._banks):
            row_of = {key: row for row, key in enumerate(bank.keys)}
            for place, key in enumerate(entries.keys):
                if self._bank[place] < 0 and key in row_of:
                    self._bank[place], self._row[place] = number, row_of[key]

    def missing(self) -> int:
        """How many entries must be encoded."""
        return int((self._bank < 0).sum())

    def __call__(self, wanted: range) -> dict[str, Tensor]:
        """The tensors of a range of entries."""
        bank, row = (part[wanted.start : wanted.stop] for part in (self._bank, self._row))
        new = torch.nonzero(bank < 0).flatten()
        made = self._encode([wanted.start + at for at in new.tolist()]) if len(new) else {}
        if len(new) == len(wanted):
            return made
        return {name: self._joined(name, bank, row, made) for name in self._banks[0].tensors}

    def _joined(self, name: str, bank: Tensor, row: Tensor, made: dict[str, Tensor]) -> Tensor:
        """Rows of one shape: those of a shard are, and equal keys have equal shapes."""
        parts = [(bank < 0, made[name])] if made else []
        for number, held in enumerate(self._banks):
            mine = bank == number
            if mine.any():
                parts.append((mine, held.tensors[name][row[mine]]))
        like = parts[0][1]
        found = torch.empty(len(bank), *like.shape[1:], dtype=like.dtype)
        for mine, values in parts:
            found[mine] = values
        return found
