"""The dataset as pairs ready for shards: mined, captioned, accepted, split."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kontext.data.buckets import Fit
from kontext.data.images import ImageBank
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.read import load_split
from kontext.data.shards.write import ShardSample, map_file, tar_members
from kontext.data.split import NOWHERE, SPLITS_IN_ORDER, Components
from kontext.store.artifacts.artifact_store import Artifact
from schemas.tables import CAPTION_TEXTS, PICTURE_SPLITS, SPLITS

Row = dict[str, Any]
_AT_A_TIME = 4096  # pairs as dicts
_MOST_BYTES = 1 << 29  # of pictures made for shards that are held


@dataclass(frozen=True)
class Selected:
    """Pairs that go into shards, with their captions merged in, and why the others do not."""

    table: pa.Table  # columns of PAIRS and CAPTIONS, in pair-id order
    dropped: Counter[str]  # reason -> pairs

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def rows(self, which: NDArray[np.bool_] | None = None) -> Iterator[Row]:
        """The pairs one after the other (those of `which` [P]); only a few are in memory."""
        table = self.table if which is None else self.table.filter(pa.array(which))
        for batch in table.to_batches(max_chunksize=_AT_A_TIME):
            yield from batch.to_pylist()


def select_pairs(
    pairs: pa.Table, captions: pa.Table, accepted: pa.Table, images: Sequence[str]
) -> Selected:
    """Join pairs with captions and the screen's verdict. A pair without a verdict is dropped.

    `images` are the pixel ids that ingest kept.
    """
    text = _places(pairs["pair_id"], captions["pair_id"])
    verdict = _places(pairs["pair_id"], accepted["pair_id"])
    status = captions["status"].take(text)
    let_in = accepted["accept"].take(verdict).fill_null(False)
    reasons = pc.case_when(
        pc.make_struct(
            pc.is_null(text),
            pc.not_equal(status, "ok").fill_null(False),
            pc.is_null(verdict),
            pc.invert(let_in),
            _names_unknown(pairs, images),
        ),
        "caption_missing",
        pc.binary_join_element_wise("caption", status, "_"),
        "not_screened",
        _first_reason(accepted).take(verdict),
        "image_missing",
    )
    good = pa.array(np.flatnonzero(np.asarray(pc.is_null(reasons))))
    order = good.take(pc.sort_indices(pairs["pair_id"].take(good)))  # so that all is copied once
    columns = {name: pairs[name].take(order) for name in pairs.column_names}
    columns |= {name: captions[name].take(text.take(order)) for name in captions.column_names}
    counts = pc.value_counts(reasons.filter(pc.is_valid(reasons))).to_pylist()
    dropped = Counter({one["values"]: one["counts"] for one in counts})
    return Selected(pa.table(columns), dropped)


def _places(keys: pa.ChunkedArray, among: pa.ChunkedArray) -> pa.Array:
    """The row of `among` that has each key; null where none has."""
    return pc.index_in(keys.combine_chunks(), value_set=among.combine_chunks())


def _names_unknown(pairs: pa.Table, images: Sequence[str]) -> pa.Array:
    """Whether a pair has a picture that is not among `images`, by pair."""
    known, contexts = pa.array(images, pa.string()), pairs["context_ids"].combine_chunks()
    unknown = ~np.asarray(pc.is_in(pairs["target_id"], value_set=known))
    theirs = np.asarray(pc.list_parent_indices(contexts))
    unknown[theirs[~np.asarray(pc.is_in(contexts.flatten(), value_set=known))]] = True
    return pa.array(unknown)


def _first_reason(accepted: pa.Table) -> pa.Array:
    """The first reject reason of each verdict, or "unnamed"."""
    reasons = accepted["reject_reasons"].combine_chunks()
    some = pc.greater(pc.list_value_length(reasons), 0).fill_null(False)
    starts = reasons.offsets[:-1]
    return reasons.values.take(pc.if_else(some, starts, None)).fill_null("unnamed")


def ties(selected: Selected, ids: pa.Array) -> NDArray[np.int64]:
    """The places in `ids` of images that pairs tie together [E, 2]: each context with its target.

    References tie nothing: with them all images would be one component.
    """
    rows, contexts = _contexts(selected.table, first=True)
    targets = selected.table["target_id"].combine_chunks().take(rows)
    both = [pc.index_in(side, value_set=ids) for side in (contexts, targets)]
    return np.stack([side.to_numpy().astype(np.int64) for side in both], axis=1)


def _contexts(table: pa.Table, *, first: bool) -> tuple[pa.Array, pa.Array]:
    """(row, picture) of the first context of every pair that has one, or of all others."""
    lists = table["context_ids"].combine_chunks()
    rows = np.asarray(pc.list_parent_indices(lists))
    begins = np.r_[True, rows[1:] != rows[:-1]] if len(rows) else np.zeros(0, bool)
    wanted = pa.array(begins if first else ~begins)
    return pa.array(rows).filter(wanted), lists.flatten().filter(wanted)


def drop_divided_pairs(selected: Selected, components: Components) -> Selected:
    """Without pairs whose images earlier versions have put into different splits."""
    found, rows, contexts = _places_in(selected, components, first=True)
    whole = found >= 0
    np.logical_and.at(whole, rows, contexts == found[rows])
    return _keep(selected, whole, "between_splits_of_earlier_versions")


def drop_cross_split_pairs(
    selected: Selected, components: Components, splits: Mapping[str, str]
) -> Selected:
    """Without pairs whose references lie in another split than their target: they would leak.

    So would an image that is in no split, because none of its own pairs was accepted.
    """
    found, rows, references = _places_in(selected, components, first=False)
    at = [SPLITS_IN_ORDER.index(splits[c]) if c in splits else -1 for c in components.names]
    split_of = np.array([*at, -1])  # what is in no component has the place -1
    whole = np.ones(len(found), bool)
    np.logical_and.at(whole, rows, split_of[references] == split_of[found[rows]])
    return _keep(selected, whole, "reference_in_another_split")


def _places_in(
    selected: Selected, components: Components, *, first: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Components of the targets [P]; rows and components of first contexts, or of the others."""
    rows, pictures = _contexts(selected.table, first=first)
    targets = components.places(selected.table["target_id"].combine_chunks())
    return targets, rows.to_numpy(), components.places(pictures)


def _keep(selected: Selected, whole: NDArray[np.bool_], reason: str) -> Selected:
    lost = int((~whole).sum())
    if not lost:
        return selected
    dropped = selected.dropped + Counter({reason: lost})
    return Selected(selected.table.filter(pa.array(whole)), dropped)


def class_counts(selected: Selected, components: Components) -> dict[str, Counter[str]]:
    """Component id -> relation class -> pairs."""
    places = components.places(selected.table["target_id"].combine_chunks())
    named = pa.table({"at": places, "of": selected.table["relation_class"]})
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in named.group_by(["at", "of"]).aggregate([([], "count_all")]).to_pylist():
        counts[components.names[row["at"]]][row["of"]] = row["count_all"]
    return dict(counts)


def splits_table(selected: Selected, components: Components, splits: Mapping[str, str]) -> pa.Table:
    """SPLITS rows in pair-id order."""
    places = pa.array(components.places(selected.table["target_id"].combine_chunks()))
    names = pa.array(components.names, pa.string())
    split_of = pa.array([splits.get(name) for name in components.names], pa.string())
    columns = (selected.table["pair_id"], names.take(places), split_of.take(places))
    return pa.table(dict(zip(SPLITS.names, columns, strict=True)), SPLITS)


def picture_splits(
    components: Components, splits: Mapping[str, str], before: Mapping[str, str]
) -> pa.Table:
    """PICTURE_SPLITS rows by pixel id: what was known `before`, and all that have a split now."""
    known = {**components.kept, **splits}
    split_of = pa.array([known.get(name) for name in components.names], pa.string())
    places = pa.array(components.place, mask=components.place < 0)
    now = pa.table([components.ids, split_of.take(places)], PICTURE_SPLITS)
    now = now.filter(pc.is_valid(now["split"]))
    kept = pa.table([list(before), list(before.values())], PICTURE_SPLITS)
    new = now.filter(pc.invert(pc.is_in(now["pixel_id"], value_set=kept["pixel_id"])))
    return pa.concat_tables([new, kept]).sort_by("pixel_id").combine_chunks()


def splits_before(versions: Iterable[Artifact]) -> dict[str, str]:
    """Pixel id -> split, of earlier shard artifacts; NOWHERE where they disagree."""
    found: dict[str, str] = {}
    for made in versions:
        for image, split in _splits_of(made):
            if found.setdefault(image, split) != split:
                found[image] = NOWHERE
    return found


def _splits_of(made: Artifact) -> Iterator[tuple[str, str]]:
    if made.names("picture_splits.parquet"):
        columns = made.table("picture_splits.parquet").to_pydict()
        yield from zip(columns["pixel_id"], columns["split"], strict=True)
        return
    for split in SPLITS_IN_ORDER:  # of kontext before it kept that table
        yield from ((image, split) for image in load_split(made, split).pixel_ids)


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
