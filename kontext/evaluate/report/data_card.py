"""The data card: sample pairs, what was kept and dropped and why, licences, splits."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from kontext.data.shards.read import PairRow, load_split
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.model import SamplePair, TableBlock
from kontext.store.artifacts.artifact_store import Artifact
from schemas.risks import risks
from schemas.tables import RELATION_CLASSES

PER_CATEGORY = 6
Inputs = Mapping[str, Artifact]

REASONS = {
    "quota": "the category had enough of this relation",
    "image_cap": "its target was already used often enough",
    "duplicate": "proposed twice",
    **{risk.column: f"{risk.label} score above its limit" for risk in risks().values()},
    "exposure_delta_max": "somebody would be less clothed",
    "clip_t_min": "target and caption do not agree",
    "clip_dir_min": "images and captions move apart",
    "l1_min": "hardly anything changes",
    "changed_frac_min": "hardly any pixel changes",
    "ssim_max": "context and target look the same",
    "pdq_distance_min": "context and target hash the same",
}


def samples(inputs: Inputs, assets: Assets) -> dict[str, list[SamplePair]]:
    """Training pairs per category, drawn by hash and spread over relations."""
    train = load_split(inputs["shard"], "train")
    shown: dict[str, list[SamplePair]] = {}
    for name in RELATION_CLASSES:
        rows = spread(train.of_class(name), PER_CATEGORY)
        shown[name] = [
            SamplePair(
                row.instruction,
                assets.image(train.pixels(row.contexts[:1])[0], 144) if row.contexts else "",
                assets.image(train.pixels([row.target])[0], 144),
                row.relation,
            )
            for row in rows
        ]
    return {name: found for name, found in shown.items() if found}


def spread(rows: Sequence[PairRow], count: int) -> list[PairRow]:
    """`count` rows in hash order, relations taking turns."""
    queues: dict[str, list[PairRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: hashlib.sha256(f"shown:{r.pair_id}".encode()).digest()):
        queues[row.relation].append(row)
    chosen: list[PairRow] = []
    while len(chosen) < count and any(queues.values()):
        for name in sorted(queues):
            if queues[name] and len(chosen) < count:
                chosen.append(queues[name].pop(0))
    return chosen


def tables(inputs: Inputs) -> list[TableBlock]:
    """Counts by category and split, drop reasons of every stage, sources, licences."""
    images = inputs["ingest"].table("images")
    relation = _relations(inputs)
    splits = inputs["shard"].table("splits.parquet").to_pylist()
    by_class: Counter[tuple[str, str]] = Counter()
    for row in splits:
        by_class[relation[row["pair_id"]][0], row["split"]] += 1
    mined = Counter(kind for kind, _ in relation.values())
    blocks = [
        TableBlock(
            "Pairs per category",
            ("category", "mined", "accepted", "train", "val", "test"),
            tuple(
                (
                    name,
                    mined[name],
                    sum(by_class[name, split] for split in ("train", "val", "test")),
                    *(by_class[name, split] for split in ("train", "val", "test")),
                )
                for name in RELATION_CLASSES
                if mined[name]
            ),
            f"{len({row['component_id'] for row in splits}):,} connected components; a component "
            "is never divided between splits.",
        ),
        _dropped(inputs),
        _count("Images by source", "source", images["source"].to_pylist()),
        _count("Images by licence", "licence", images["license_spdx"].to_pylist()),
    ]
    rejects = inputs["ingest"].table("rejects.parquet")["reason"].to_pylist()
    if rejects:
        blocks.append(_count("Images not accepted", "reason", rejects))
    return [block for block in blocks if block.rows]


def _relations(inputs: Inputs) -> dict[str, tuple[str, str]]:
    pairs = inputs["mine"].table("pairs.parquet").select(["pair_id", "relation_class", "relation"])
    return {row["pair_id"]: (row["relation_class"], row["relation"]) for row in pairs.to_pylist()}


def _count(title: str, what: str, values: Sequence[str]) -> TableBlock:
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    return TableBlock(title, (what, "images"), tuple(counts))


def _dropped(inputs: Inputs) -> TableBlock:
    """Why proposed pairs are not in the shards, by the stage that dropped them."""
    rows: list[tuple[str, str, int]] = []
    for reason, count in sorted(mine_drops(inputs["mine"].json("counts.json")).items()):
        rows.append((reason_text(reason), "mine", count))
    status = Counter(inputs["caption"].table("captions.parquet")["status"].to_pylist())
    rows += [
        (f"caption {name}", "caption", n) for name, n in sorted(status.items()) if name != "ok"
    ]
    accepted = inputs["screen"].table("accepted.parquet")
    reasons: Counter[str] = Counter()
    for row in accepted.select(["accept", "reject_reasons"]).to_pylist():
        if not row["accept"]:
            reasons.update((row["reject_reasons"] or ["unnamed"])[:1])
    rows += [(reason_text(name), "screen", n) for name, n in sorted(reasons.items())]
    return TableBlock("Pairs not kept, by reason", ("reason", "stage", "pairs"), tuple(rows))


def reason_text(reason: str) -> str:
    """A drop reason in words."""
    return REASONS.get(reason, reason.replace("_", " "))


def mine_drops(counts: Mapping[str, Any]) -> Counter[str]:
    """Drop reasons of mine's `counts.json` {proposed, outcomes: [{outcome, pairs, …}]}, summed."""
    found: Counter[str] = Counter()
    for row in counts["outcomes"]:
        if row["outcome"] != "kept":
            found[row["outcome"]] += row["pairs"]
    return found
