"""Banks: encoded rows in safetensors shards, keyed by what was encoded and by what encoded it.

A bank named `latents` is the files `latents-00000.safetensors`, … and the table `latents.parquet`,
whose row K says which content and which encoder gave row K, and where it lies. A bank may be larger
than memory: it is written shard by shard, and read through the operating system's page cache, which
all processes of a machine share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kontext.errors import Stopped, WeightsError
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter

BANK_ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("text", pa.string()),
        ("encoder", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
    ],
    metadata={
        "comment": "Row K of a bank: key = pixel id of the image, sha256 of the text or place of "
        "the edited pair in its split, encoder = digest of the weights (or the version of the "
        "edits) that made it, and the shard and row it is stored in."
    },
)


class Entries(NamedTuple):
    """What the K rows of a bank encode.

    Attributes:
        keys: pixel ids of images, sha256 of texts, or the places of edited pairs in their split.
        encoder: digest of the weights that encode them, or the version of the edits.
        texts: the texts themselves, where it is text that is encoded.
    """

    keys: Sequence[str]
    encoder: str
    texts: Sequence[str] | None = None


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
        found = torch.empty(
            len(rows), *self.shape[1:], dtype=self._shards[0].dtype, pin_memory=self._pinned
        )
        shards = torch.bucketize(rows, self._ends, right=True)
        for number in sorted(set(shards.tolist())):
            mine = torch.nonzero(shards == number).flatten()
            shard = self._shards[number]
            found[mine] = shard[rows[mine] - (self._ends[number] - len(shard))]
        return found.to(self.device, non_blocking=True).to(self.dtype)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> MappedRows:
        """The same rows, read onto `device` as `dtype` (as stored by default)."""
        return MappedRows(self._shards, device, dtype)

    @property
    def _pinned(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Bank:
    """A stored bank of K rows."""

    keys: list[str]
    encoder: str
    tensors: Mapping[str, MappedRows]  # each [K, …]
    texts: list[str] | None = None


def make_shards(
    folder: Path,
    name: str,
    entries: Entries,
    rows: int,
    encode: Callable[[range], dict[str, Tensor]],
    rank: int = 0,
    ranks: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> list[Path]:
    """Encode the shards of a bank, each of at most `rows` rows, that are not whole in `folder` yet.

    Args:
        encode: the tensors [k, …] of a range of entries.
        rank, ranks: this process among those that share the work; it makes every `ranks`-th shard.
        stop: asked between two shards whether to end.

    Returns:
        The paths of all shards, in order.

    Raises:
        Stopped: `stop` said so; the shards so far are whole.
    """
    starts = range(0, len(entries.keys), rows)
    paths = [folder / f"{name}-{number:05d}.safetensors" for number in range(len(starts))]
    missing = [n for n, path in enumerate(paths) if n % ranks == rank and not path.exists()]
    for done, number in enumerate(missing):
        if done and stop():  # every call makes one: slices of any length come to an end
            raise Stopped(f"ended after {number} shards of {name}")
        start = starts[number]
        wanted = range(start, min(start + rows, len(entries.keys)))
        tensors = {key: value.contiguous() for key, value in encode(wanted).items()}
        partial = paths[number].with_suffix(".partial")
        save_file(tensors, partial, metadata={"encoder": entries.encoder})
        partial.replace(paths[number])
    return paths


def write_bank(
    output: ArtifactWriter,
    scratch: Path,
    name: str,
    entries: Entries,
    rows: int,
    encode: Callable[[range], dict[str, Tensor]],
    stop: Callable[[], bool] = lambda: False,
) -> Bank:
    """Write a bank, with what `make_shards` makes in `scratch` or a killed run left whole there.

    Args:
        encode: the tensors [k, …] of a range of entries.
        stop: see `make_shards`.

    Returns:
        The bank, as its shards are in `scratch`.

    Raises:
        Stopped: `stop` said so; the shards so far are whole.
        WeightsError: there is nothing to encode.
    """
    if not entries.keys:
        raise WeightsError(f"there is nothing to encode for the bank '{name}'")
    shards = make_shards(scratch, name, entries, rows, encode, stop=stop)
    for shard in shards:
        output.add_file(shard.name, shard)
    output.add_table(f"{name}.parquet", _table(entries, [shard.name for shard in shards], rows))
    return _bank(entries, [load_file(shard) for shard in shards])


def _table(entries: Entries, shards: Sequence[str], rows: int) -> pa.Table:
    count = len(entries.keys)
    return pa.table(
        {
            "key": entries.keys,
            "text": [None] * count if entries.texts is None else entries.texts,
            "encoder": [entries.encoder] * count,
            "shard": [shards[place // rows] for place in range(count)],
            "row": [place % rows for place in range(count)],
        },
        BANK_ROWS,
    )


def open_bank(artifact: Artifact, name: str) -> Bank:
    """A bank in the order of its table; its tensors stay on disk.

    Raises:
        WeightsError: shards and table do not agree, or the rows are of several encoders.
    """
    table = artifact.table(f"{name}.parquet")
    encoders = sorted(set(table["encoder"].to_pylist()))
    if len(encoders) != 1:
        raise WeightsError(f"the bank '{name}' is of {len(encoders)} encoders, not of one")
    shards = []
    for shard, wanted in _rows_of_shards(table).items():
        shards.append(load_file(artifact.path(shard)))
        for value in shards[-1].values():
            if wanted != list(range(len(value))):
                raise WeightsError(f"{shard} has {len(value)} rows, its table {len(wanted)}")
    texts = table["text"].to_pylist()
    entries = Entries(table["key"].to_pylist(), encoders[0], None if None in texts else texts)
    return _bank(entries, shards)


def map_folder(folder: Path, name: str) -> dict[str, MappedRows]:
    """The tensors of a bank whose shards lie in `folder`, as `write_bank` leaves its scratch."""
    return _joined([load_file(path) for path in sorted(folder.glob(f"{name}-*.safetensors"))])


def _joined(shards: Sequence[Mapping[str, Tensor]]) -> dict[str, MappedRows]:
    return {key: MappedRows([shard[key] for shard in shards]) for key in shards[0]}


def _bank(entries: Entries, shards: Sequence[Mapping[str, Tensor]]) -> Bank:
    tensors = _joined(shards)
    texts = None if entries.texts is None else list(entries.texts)
    return Bank(list(entries.keys), entries.encoder, tensors, texts)


def _rows_of_shards(table: pa.Table) -> dict[str, list[int]]:
    """The rows that the table names of each shard, in its order."""
    found: dict[str, list[int]] = {}
    for shard, row in zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True):
        found.setdefault(shard, []).append(row)
    return found
