"""Pairs ready for shards: their rows with their captions, and their pictures as they are shown."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kontext.data.buckets import Fit
from kontext.data.images import ImageBank
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.write import ShardSample, map_file, tar_members
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import ParquetRows
from schemas.tables import CAPTION_TEXTS

Row = dict[str, Any]
Rows = NDArray[np.int64]
_AT_A_TIME = 4096  # pairs as dicts
_MOST_BYTES = 1 << 29  # of pictures made for shards that are held


class PairRows:
    """The pairs of two files, PAIRS and CAPTIONS, with their captions merged in."""

    def __init__(self, pairs: Path, captions: Path) -> None:
        self._pairs, self._captions = ParquetRows(pairs), ParquetRows(captions)

    def of(self, selected: pa.Table) -> Iterator[Row]:
        """The pairs of `Selected.table`, one after the other; only a few are in memory."""
        for batch in selected.select(["row", "text"]).to_batches(max_chunksize=_AT_A_TIME):
            pairs = self._pairs.take(np.asarray(batch["row"]))
            said = self._captions.take(np.asarray(batch["text"]))
            columns = dict(zip(pairs.column_names, pairs.columns, strict=True))
            columns |= zip(said.column_names, said.columns, strict=True)
            yield from pa.table(columns).to_pylist()


class StoredSample:
    """A pair as it lies in a shard, with its headers."""

    def __init__(self, packed: memoryview) -> None:
        self.packed = packed
        self._members = {name.partition(".")[2]: body for name, body in tar_members(packed)}
        record = json.loads(self.text)
        self.contexts: tuple[str, ...] = tuple(record["context_ids"])
        self.target: str = record["target_id"]

    @property
    def text(self) -> bytes:
        """The JSON member."""
        return bytes(self._members["json"])

    def pictures(self) -> dict[str, memoryview]:
        """The PNGs of its contexts and its target, by id."""
        suffixes = [*(f"ctx{i}.png" for i in range(len(self.contexts))), "tgt.png"]
        named = zip((*self.contexts, self.target), suffixes, strict=True)
        return {one: self._members[suffix] for one, suffix in named}


class StoredPairs:
    """The samples of a shard artifact, as columns; its tars stay on disk."""

    def __init__(self, made: Artifact) -> None:
        self._made = made
        shards = made.table("shards.parquet", ["shard_id", "name"])
        columns = ["pair_id", "shard_id", "offset_bytes", "length_bytes"]
        members = made.table("shard_members.parquet", columns).combine_chunks()
        self._names = shards["name"].to_pylist()
        self._ids = members["pair_id"].combine_chunks()
        among = shards["shard_id"].combine_chunks()
        self._shard = pc.index_in(members["shard_id"].combine_chunks(), value_set=among).to_numpy()
        self._first, self._length = (members[name].to_numpy() for name in columns[2:])
        self._tars: dict[int, memoryview] = {}

    def rows(self, pair_ids: pa.Array) -> Rows:
        """The row of each pair [N]; -1 where it is not there."""
        found = pc.index_in(pair_ids, value_set=self._ids).fill_null(-1)
        return np.asarray(found, np.int64)

    def sample(self, row: int) -> StoredSample:
        """The sample at a row."""
        shard, first = int(self._shard[row]), int(self._first[row])
        if shard not in self._tars:
            self._tars[shard] = map_file(self._made.path(self._names[shard]))
        return StoredSample(self._tars[shard][first : first + int(self._length[row])])


class ShownPictures:
    """The pictures of pairs at the sizes that they are trained at, by the ids of those pixels.

    What ingest stored at just that size is taken as it is, with its id and its bytes; a pair that
    an earlier artifact holds, of the same sizes and code, is taken from its shards.
    """

    def __init__(self, bank: ImageBank, earlier: Iterable[Artifact] = ()) -> None:
        self._bank = bank
        self._names: dict[tuple[str, Fit], str] = {}
        self._made: dict[str, bytes] = {}  # the newest of them; the others can be made again
        self._made_of: dict[str, tuple[str, Fit]] = {}
        self._bytes = 0
        self._held = [StoredPairs(made) for made in earlier]
        self._lying: dict[str, memoryview] = {}  # in the shards of `earlier`

    def stored(self, pair_ids: pa.ChunkedArray) -> Iterator[StoredSample | None]:
        """What the newest earlier artifact that has it holds of every pair, in their order."""
        ids = pair_ids.combine_chunks()
        found = [held.rows(ids) for held in self._held]
        for pair in range(len(ids)):
            places = ((held, rows[pair]) for held, rows in zip(self._held, found, strict=True))
            yield next((held.sample(row) for held, row in places if row >= 0), None)

    def take(self, stored: StoredSample) -> None:
        """Have `png` give the pictures of a stored pair."""
        self._lying |= stored.pictures()

    def names(self, row: Row) -> tuple[tuple[str, ...], str]:
        """Ids of a pair's contexts and target as they are shown."""
        contexts = tuple(self._name(image, row["target_id"]) for image in row["context_ids"])
        return contexts, self._name(row["target_id"])

    def _name(self, stored: str, beside: str | None = None) -> str:
        bank, transform = self._bank, self._bank.fit(stored, beside)
        if transform.keeps(bank.size(stored)):
            return stored
        if (stored, transform) not in self._names:
            self._names[stored, transform] = self._make(stored, transform)
        return self._names[stored, transform]

    def _make(self, stored: str, transform: Fit) -> str:
        rgb = transform(self._bank.stored(stored))
        name = pixel_id(rgb)
        if name not in self._made:
            self._made_of[name] = stored, transform
            self._made[name] = encode_png(rgb)
            self._bytes += len(self._made[name])
        while self._bytes > _MOST_BYTES and len(self._made) > 1:
            self._bytes -= len(self._made.pop(next(iter(self._made))))
        return name

    def png(self, name: str) -> bytes:
        """The PNG of a picture that `names` named, or that was taken."""
        if name in self._lying:
            return bytes(self._lying[name])
        if name not in self._made_of:
            return self._bank.png(name)
        if name not in self._made:
            self._make(*self._made_of[name])
        return self._made[name]


def samples(
    pairs: PairRows, selected: pa.Table, split: str, shown: ShownPictures
) -> Iterator[ShardSample]:
    """The pairs of `Selected.table` as shard samples, one after the other."""
    for row, stored in zip(pairs.of(selected), shown.stored(selected["pair_id"]), strict=True):
        yield shard_sample(row, split, shown, stored)


def shard_sample(
    row: Row, split: str, shown: ShownPictures, stored: StoredSample | None = None
) -> ShardSample:
    """One pair as a shard sample, with everything a trainer needs in its JSON.

    Its ids are those of the pixels in the shard. What is `stored` of it is taken as it lies there,
    the whole sample where its text has not changed.
    """
    contexts, target = (stored.contexts, stored.target) if stored else shown.names(row)
    as_they_are = ("pair_id", "relation_class", "relation", "license_spdx", "source")
    record = {
        **{name: row[name] for name in (*as_they_are, *CAPTION_TEXTS)},
        "params": json.loads(row["params"]),
        "context_ids": list(contexts),
        "target_id": target,
        "split": split,
    }
    sample = ShardSample(row["pair_id"], contexts, target, record)
    if stored is None:
        return sample
    if stored.text == sample.text:
        return replace(sample, packed=stored.packed)
    shown.take(stored)
    return sample
