"""Pairs ready for shards: their rows with their captions, and their pictures as they are shown."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kontext.data.buckets import Fit
from kontext.data.images import ImageBank
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.write import ShardSample, map_file, tar_members
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import ParquetRows
from schemas.tables import CAPTION_TEXTS

Row = dict[str, Any]
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


class ShownPictures:
    """The pictures of pairs at the sizes that they are trained at, by the ids of those pixels.

    What ingest stored at just that size is taken as it is, with its id and its bytes; those of a
    pair that an earlier artifact holds, of the same sizes and code, are taken from its shards.
    """

    def __init__(self, bank: ImageBank, earlier: Iterable[Artifact] = ()) -> None:
        self._bank = bank
        self._names: dict[tuple[str, Fit], str] = {}
        self._made: dict[str, bytes] = {}  # the newest of them; the others can be made again
        self._made_of: dict[str, tuple[str, Fit]] = {}
        self._bytes = 0
        self._held = [StoredPairs(made) for made in earlier]
        self._lying: dict[str, memoryview] = {}  # in the shards of `earlier`

    def names(self, row: Row) -> tuple[tuple[str, ...], str]:
        """Ids of a pair's contexts and target as they are shown."""
        stored = (*row["context_ids"], row["target_id"])
        if not all(self._stays(picture, row["target_id"]) for picture in stored):
            for held in self._held:
                if found := held.pictures(row["pair_id"]):
                    self._lying.update(found[1])
                    return found[0][:-1], found[0][-1]
        contexts = tuple(self._name(image, row["target_id"]) for image in row["context_ids"])
        return contexts, self._name(row["target_id"])

    def _stays(self, stored: str, target: str) -> bool:
        beside = None if stored == target else target
        return self._bank.fit(stored, beside).keeps(self._bank.size(stored))

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
        """The PNG of a picture that `names` named."""
        if name in self._lying:
            return bytes(self._lying[name])
        if name not in self._made_of:
            return self._bank.png(name)
        if name not in self._made:
            self._make(*self._made_of[name])
        return self._made[name]


class StoredPairs:
    """The pictures of a shard artifact's pairs; its tars stay on disk."""

    def __init__(self, made: Artifact) -> None:
        self._made = made
        shards = made.table("shards.parquet")
        names = zip(shards["shard_id"].to_pylist(), shards["name"].to_pylist(), strict=True)
        self._names = dict(names)
        columns = ("pair_id", "shard_id", "offset_bytes", "length_bytes")
        places = made.table("shard_members.parquet").select(columns).to_pydict().values()
        self._places = {pair: place for pair, *place in zip(*places, strict=True)}
        self._tars: dict[str, memoryview] = {}

    def pictures(self, pair_id: str) -> tuple[tuple[str, ...], dict[str, memoryview]] | None:
        """Ids of its contexts and of its target, and their PNGs; None where it is not there."""
        if pair_id not in self._places:
            return None
        shard, start, length = self._places[pair_id]
        if shard not in self._tars:
            self._tars[shard] = map_file(self._made.path(self._names[shard]))
        sample = self._tars[shard][start : start + length]
        files = {name.partition(".")[2]: body for name, body in tar_members(sample)}
        record = json.loads(bytes(files["json"]))
        ids = (*record["context_ids"], record["target_id"])
        suffixes = [*(f"ctx{i}.png" for i in range(len(ids) - 1)), "tgt.png"]
        return ids, {one: files[suffix] for one, suffix in zip(ids, suffixes, strict=True)}


def shard_sample(row: Row, split: str, shown: ShownPictures) -> ShardSample:
    """One pair as a shard sample, with everything a trainer needs in its JSON.

    Its ids are those of the pixels in the shard.
    """
    contexts, target = shown.names(row)
    as_they_are = ("pair_id", "relation_class", "relation", "license_spdx", "source")
    record = {
        **{name: row[name] for name in (*as_they_are, *CAPTION_TEXTS)},
        "params": json.loads(row["params"]),
        "context_ids": list(contexts),
        "target_id": target,
        "split": split,
    }
    return ShardSample(row["pair_id"], contexts, target, record)
