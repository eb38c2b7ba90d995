"""The dataset as pairs ready for shards: mined, captioned, accepted, split."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from kontext.data.buckets import Fit
from kontext.data.images import ImageBank
from kontext.data.pixels import encode_png, pixel_id
from kontext.data.shards.read import load_split
from kontext.data.shards.write import ShardSample, map_file, tar_members
from kontext.data.split import NOWHERE, SPLITS_IN_ORDER, Components
from kontext.store.artifacts.artifact_store import Artifact
from schemas.tables import CAPTION_TEXTS, PICTURE_SPLITS, SPLITS

Row = dict[str, Any]


@dataclass(frozen=True)
class Selected:
    """Pairs that go into shards, with their captions merged in, and why the others do not."""

    rows: list[Row]  # in pair-id order
    dropped: Counter[str]  # reason -> pairs


def select_pairs(
    pairs: pa.Table, captions: pa.Table, accepted: pa.Table, images: Container[str]
) -> Selected:
    """Join pairs with captions and the screen's verdict. A pair without a verdict is dropped.

    `images` are the pixel ids that ingest kept.
    """
    texts = {row["pair_id"]: row for row in captions.to_pylist()}
    verdicts = {row["pair_id"]: row for row in accepted.to_pylist()}
    dropped: Counter[str] = Counter()
    rows = []
    for pair in pairs.to_pylist():
        pair_id = pair["pair_id"]
        text, verdict = texts.get(pair_id), verdicts.get(pair_id)
        if text is None or text["status"] != "ok":
            dropped[f"caption_{'missing' if text is None else text['status']}"] += 1
        elif verdict is None:
            dropped["not_screened"] += 1
        elif not verdict["accept"]:
            dropped.update((verdict["reject_reasons"] or ["unnamed"])[:1])
        elif any(image not in images for image in (*pair["context_ids"], pair["target_id"])):
            dropped["image_missing"] += 1
        else:
            rows.append({**pair, **text})
    return Selected(sorted(rows, key=lambda row: str(row["pair_id"])), dropped)


def tied_images(row: Row) -> list[str]:
    """The images that a pair ties together: its target, and its context but not its references.

    With references all images would be one component.
    """
    return [*row["context_ids"][:1], row["target_id"]]


def drop_divided_pairs(selected: Selected, components: Components) -> Selected:
    """Without pairs whose images earlier versions have put into different splits."""
    of = components.of_image

    def whole(row: Row) -> bool:
        return (
            None not in (found := {of.get(image) for image in tied_images(row)}) and len(found) == 1
        )

    return _keep(selected, whole, "between_splits_of_earlier_versions")


def drop_cross_split_pairs(
    selected: Selected, components: Components, splits: Mapping[str, str]
) -> Selected:
    """Without pairs whose references lie in another split than their target: they would leak.

    So would an image that is in no split, because none of its own pairs was accepted.
    """

    def split_of(image: str) -> str | None:
        return splits.get(components.of_image.get(image, ""))

    def whole(row: Row) -> bool:
        target = split_of(row["target_id"])
        return all(split_of(image) == target for image in row["context_ids"][1:])

    return _keep(selected, whole, "reference_in_another_split")


def _keep(selected: Selected, whole: Callable[[Row], bool], reason: str) -> Selected:
    kept = [row for row in selected.rows if whole(row)]
    lost = len(selected.rows) - len(kept)
    return Selected(kept, selected.dropped + Counter({reason: lost} if lost else {}))


def class_counts(rows: list[Row], components: Components) -> dict[str, Counter[str]]:
    """Component id -> relation class -> pairs."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[components.of_image[row["target_id"]]][row["relation_class"]] += 1
    return dict(counts)


def splits_table(rows: list[Row], components: Components, splits: Mapping[str, str]) -> pa.Table:
    """SPLITS rows in pair-id order."""
    members = [(row["pair_id"], components.of_image[row["target_id"]]) for row in rows]
    return pa.Table.from_pylist(
        [{"pair_id": p, "component_id": c, "split": splits[c]} for p, c in members], SPLITS
    )


def picture_splits(
    components: Components, splits: Mapping[str, str], before: Mapping[str, str]
) -> pa.Table:
    """PICTURE_SPLITS rows by pixel id: what was known `before`, and all that have a split now."""
    known = {**components.kept, **splits}
    now = {image: known[c] for image, c in components.of_image.items() if c in known}
    rows = sorted({**now, **before}.items())
    return pa.Table.from_pylist([{"pixel_id": i, "split": s} for i, s in rows], PICTURE_SPLITS)


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
        self._made: dict[str, bytes | memoryview] = {}
        self._held = [StoredPairs(made) for made in earlier]

    def names(self, row: Row) -> tuple[tuple[str, ...], str]:
        """Ids of a pair's contexts and target as they are shown."""
        stored = (*row["context_ids"], row["target_id"])
        if not all(self._stays(picture, row["target_id"]) for picture in stored):
            for held in self._held:
                if found := held.pictures(row["pair_id"]):
                    self._made.update(found[1])
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
            rgb = transform(bank.stored(stored))
            name = pixel_id(rgb)
            self._names[stored, transform] = name
            self._made[name] = encode_png(rgb)
        return self._names[stored, transform]

    def png(self, name: str) -> bytes:
        """The PNG of a picture that `names` named."""
        return bytes(self._made[name]) if name in self._made else self._bank.png(name)


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
