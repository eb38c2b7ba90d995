"""The data card: sample pairs, what was kept and dropped and why, licences, splits."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

from kontext.data.report.page import FILE, data_report
from kontext.data.shards.read import PairRow, load_split
from kontext.engine.stage import StageContext
from kontext.errors import ArtifactError
from kontext.evaluate.benches.held_out import in_turn
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.model import TableBlock
from kontext.store.artifacts.artifact_store import Artifact
from schemas.risks import risks
from schemas.tables import RELATION_CLASSES

PER_CATEGORY = 6
_SPLITS = ("train", "val", "test")
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
    "largest_blob_min": "what changes lies in specks",
    "misalignment_max": "the target is shifted, turned or scaled as a whole",
    "sharpness_min": "the target is softer than its context",
    "edit_cropped": "much of what changes lies outside of the size in training",
    "ssim_max": "context and target look the same",
    "pdq_distance_min": "context and target hash the same",
    "judge_follow_min": "the judge sees another edit than the instruction asks for",
    "judge_preserve_min": "the judge sees other changes as well",
    "judge_quality_min": "the judge sees faults",
    "judge_shuffled_gap_min": "the judge likes another pair's instruction as well",
    "judge_swapped_gap_min": "the judge likes it the other way round as well",
}


def samples(inputs: Inputs, assets: Assets) -> dict[str, list[tuple[str, str, str]]]:
    """Training pairs per category, drawn by hash and spread over relations.

    Each has its instruction, its context ("" for text-to-image) and its target.
    """
    train = load_split(inputs["shard"], "train")

    def shown(row: PairRow) -> tuple[str, str, str]:
        context = assets.image(train.pixels(row.contexts[:1])[0], 144) if row.contexts else ""
        return row.instruction, context, assets.image(train.pixels([row.target])[0], 144)

    found = {name: spread(train.of_class(name), PER_CATEGORY) for name in RELATION_CLASSES}
    return {name: [shown(row) for row in rows] for name, rows in found.items() if rows}


def page(ctx: StageContext, assets: Assets) -> str:
    """Path of the data report beside this one; "" where the data's files were left elsewhere."""
    try:
        html = data_report(ctx.inputs, ctx.inputs["index"].json("index.json")["dataset"])
    except ArtifactError as error:  # an export has the files of some stages only
        ctx.note(f"no data report: {error}")
        return ""
    return assets.add(f"assets/{FILE}", html.encode())


def spread(rows: Sequence[PairRow], count: int) -> list[PairRow]:
    """`count` rows in hash order, relations taking turns."""
    drawn = sorted(rows, key=lambda r: hashlib.sha256(f"shown:{r.pair_id}".encode()).digest())
    return in_turn(drawn, lambda row: row.relation)[:count]


def tables(inputs: Inputs) -> list[TableBlock]:
    """Counts by category and split, drop reasons of every stage, sources, licences."""
    images = inputs["ingest"].table("images")
    pairs = inputs["mine"].table("pairs.parquet").select(["pair_id", "relation_class"]).to_pylist()
    kind_of = {row["pair_id"]: row["relation_class"] for row in pairs}
    splits = inputs["shard"].table("splits.parquet").to_pylist()
    kept = Counter((kind_of[row["pair_id"]], row["split"]) for row in splits)
    mined = Counter(kind_of.values())
    counts = {name: [kept[name, split] for split in _SPLITS] for name in RELATION_CLASSES}
    blocks = [
        TableBlock(
            "Pairs per category",
            ("category", "mined", "accepted", *_SPLITS),
            tuple((name, mined[name], sum(n), *n) for name, n in counts.items() if mined[name]),
            f"{len({row['component_id'] for row in splits}):,} connected components; a component "
            "is never divided between splits.",
        ),
        _dropped(inputs),
        _count("Images by source", "source", images["source"].to_pylist()),
        _count("Images by licence", "licence", images["license_spdx"].to_pylist()),
        _count(
            "Images not accepted",
            "reason",
            inputs["ingest"].table("rejects.parquet")["reason"].to_pylist(),
        ),
    ]
    return [block for block in blocks if block.rows]


def _count(title: str, what: str, values: Sequence[str]) -> TableBlock:
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    return TableBlock(title, (what, "images"), tuple(counts))


def _dropped(inputs: Inputs) -> TableBlock:
    """Why proposed pairs are not in the shards, by the stage that dropped them."""
    mined: Counter[str] = Counter()
    for row in inputs["mine"].json("counts.json")["outcomes"]:
        if row["outcome"] != "kept":
            mined[row["outcome"]] += row["pairs"]
    status = Counter(inputs["caption"].table("captions.parquet")["status"].to_pylist())
    accepted = inputs["screen"].table("accepted.parquet").select(["accept", "reject_reasons"])
    screened: Counter[str] = Counter()
    for row in accepted.to_pylist():
        if not row["accept"]:
            screened.update((row["reject_reasons"] or ["unnamed"])[:1])
    rows = (
        *((_in_words(name), "mine", n) for name, n in sorted(mined.items())),
        *((f"caption {name}", "caption", n) for name, n in sorted(status.items()) if name != "ok"),
        *((_in_words(name), "screen", n) for name, n in sorted(screened.items())),
    )
    return TableBlock("Pairs not kept, by reason", ("reason", "stage", "pairs"), rows)


def _in_words(reason: str) -> str:
    return REASONS.get(reason, reason.replace("_", " "))
