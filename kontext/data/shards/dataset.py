"""The dataset as pairs ready for shards: mined, captioned, accepted, split."""

import json
from collections import Counter, defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from kontext.data.shards.write import ShardSample
from kontext.data.split import Components
from schemas.tables import CAPTION_TEXTS, SPLITS

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


def drop_cross_split_pairs(
    selected: Selected, components: Components, splits: Mapping[str, str]
) -> Selected:
    """Without pairs whose references lie in another split than their target: they would leak.

    So would an image that is in no split, because none of its own pairs was accepted.
    """

    def split_of(image: str) -> str | None:
        return splits.get(components.of_image[image])

    kept = [
        row
        for row in selected.rows
        if all(split_of(image) == split_of(row["target_id"]) for image in row["context_ids"][1:])
    ]
    lost = len(selected.rows) - len(kept)
    reason = {"reference_in_another_split": lost} if lost else {}
    return Selected(kept, selected.dropped + Counter(reason))


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


def shard_sample(row: Row, split: str) -> ShardSample:
    """One pair as a shard sample, with everything a trainer needs in its JSON."""
    as_they_are = ("pair_id", "relation_class", "relation", "target_id", "license_spdx", "source")
    record = {
        **{name: row[name] for name in (*as_they_are, *CAPTION_TEXTS)},
        "params": json.loads(row["params"]),
        "context_ids": list(row["context_ids"]),
        "split": split,
    }
    return ShardSample(row["pair_id"], tuple(row["context_ids"]), row["target_id"], record)
