"""Banks: encoded rows in safetensors shards, keyed by what was encoded and by what encoded it.

A bank named `latents` is the files `latents-00000.safetensors`, … and the table `latents.parquet`,
whose row K says which content and which encoder gave row K, and where it lies. A bank may be larger
than memory: it is written shard by shard, and read through the operating system's page cache, which
all processes of a machine share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from safetensors.torch import load_file, save
from torch import Tensor

from kontext.data.buckets import Size
from kontext.data.encoded.rows import MappedRows
from kontext.errors import Stopped, WeightsError
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter

BANK_ROWS = pa.schema(
    [
        ("key", pa.string()),
        ("text", pa.string()),
        ("encoder", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
    ],
    metadata={
        "comment": "Row K of a bank: key = pixel id of the image, sha256 of the text or place of "
        "the edited pair in its split, encoder = digest of the weights (or the version of the "
        "edits) that made it, the shard and row it is stored in, and the image's size in pixels."
    },
)


class Entries(NamedTuple):
    """What the K rows of a bank encode."""

    keys: Sequence[str]  # pixel ids, sha256 of texts, or places of edited pairs in their split
    encoder: str  # digest of the weights that encode them, or the version of the edits
    texts: Sequence[str] | None = None  # themselves, where it is text that is encoded
    sizes: Sequence[Size] | None = (
        None  # (width, height) in pixels of images, those of one together
    )

    def parts(self, rows: int) -> list[range]:
        """The entries of each shard: at most `rows`, of images of one size."""
        sizes, made, start = self.sizes or [(0, 0)] * len(self.keys), list[range](), 0
        for _, alike in groupby(sizes):
            end = start + len(list(alike))
            made += [range(low, min(low + rows, end)) for low in range(start, end, rows)]
            start = end
        return made


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
    parts = entries.parts(rows)
    paths = [shard_path(folder, name, number) for number in range(len(parts))]
    missing = [n for n, path in enumerate(paths) if n % ranks == rank and not path.exists()]
    for done, number in enumerate(missing):
        if done and stop():  # every call makes one: slices of any length come to an end
            raise Stopped(f"ended after {number} shards of {name}")
        partial = paths[number].with_suffix(".partial")
        partial.write_bytes(shard_bytes(encode(parts[number]), entries))
        partial.replace(paths[number])
    return paths


def shard_path(folder: Path, name: str, number: int) -> Path:
    """Where a shard of the bank `name` lies in `folder`."""
    return folder / f"{name}-{number:05d}.safetensors"


def shard_bytes(tensors: Mapping[str, Tensor], entries: Entries) -> bytes:
    """The file of a shard, as `make_shards` writes it, of the tensors [k, …] of its entries."""
    whole = {key: value.contiguous() for key, value in tensors.items()}
    return save(whole, metadata={"encoder": entries.encoder})


def write_bank(
    output: ArtifactWriter,
    scratch: Path,
    name: str,
    entries: Entries,
    rows: int,
    encode: Callable[[range], dict[str, Tensor]],
    stop: Callable[[], bool] = lambda: False,
) -> Bank:
    """Write a bank of what `make_shards` makes in `scratch`; it is read from there.

    Raises:
        Stopped: `stop` said so; the shards so far are whole.
        WeightsError: there is nothing to encode.
    """
    if not entries.keys:
        raise WeightsError(f"there is nothing to encode for the bank '{name}'")
    shards = make_shards(scratch, name, entries, rows, encode, stop=stop)
    for shard in shards:
        output.add_file(shard.name, shard)
    places = dict(zip((shard.name for shard in shards), entries.parts(rows), strict=True))
    output.add_table(f"{name}.parquet", _table(entries, places))
    return _bank(entries, [load_file(shard) for shard in shards])


def _table(entries: Entries, shards: Mapping[str, range]) -> pa.Table:
    count = len(entries.keys)
    widths, heights = zip(*entries.sizes, strict=True) if entries.sizes else [[None] * count] * 2
    return pa.table(
        {
            "key": entries.keys,
            "text": [None] * count if entries.texts is None else entries.texts,
            "encoder": [entries.encoder] * count,
            "shard": [shard for shard, part in shards.items() for _ in part],
            "row": [row for part in shards.values() for row in range(len(part))],
            "width": widths,
            "height": heights,
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
    rows: dict[str, list[int]] = defaultdict(list)
    for shard, row in zip(table["shard"].to_pylist(), table["row"].to_pylist(), strict=True):
        rows[shard].append(row)
    shards = []
    for shard, wanted in rows.items():
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
    texts = None if entries.texts is None else list(entries.texts)
    return Bank(list(entries.keys), entries.encoder, _joined(shards), texts)
