"""The page itself: one HTML file that opens anywhere, with its pictures and drawings inside."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kontext.data.images import ImageBank
from kontext.data.report.funnel import Inputs, filters, steps
from kontext.data.report.histograms import Histogram, histogram
from kontext.data.report.limits import Limit, Values, limits, measured, score_columns
from kontext.data.report.margins import Margin, Pairs, margin
from kontext.store.artifacts.artifact_store import Artifact
from schemas.tables import PAIR_SCORES, RELATION_CLASSES

CHANGES_RESULTS = False  # shows what is there

FILE = "data.html"
HEALTH = "filters.json"
_TEMPLATE = Path(__file__).with_name("data.html")
_SAMPLES = 6  # on either side of a limit
_LISTED = 12  # rows of a small table
_SPLITS = ("train", "val", "test")


def data_report(inputs: Inputs, dataset: str) -> str:
    """The HTML of the data report. `inputs` are the artifacts ingest to shard, by stage."""
    from jinja2 import Environment, StrictUndefined

    screen = inputs["screen"]
    scores = screen.table("pair_scores.parquet")
    judged = inputs["caption"].names("judgements.parquet")
    judgements = inputs["caption"].table(judged[0]) if judged else None
    pairs = _pairs(inputs, scores["pair_id"].to_pylist())
    columns = score_columns(scores, judgements)
    policy = screen.json("policy.json")
    found = [limit for limit in limits(policy["thresholds"]) if limit.column in columns]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["percent"] = _percent
    listed = filters(screen.table("accepted.parquet"))
    by_reason = {limit.reason: limit for limit in found}
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        dataset=dataset,
        policy=policy["version"],
        pairs=len(pairs.pair_ids),
        accepted=int(pairs.accepted.sum()),
        steps=steps(inputs),
        filters=[(one, by_reason.get(one.reason)) for one in listed],
        health=_health(screen),
        idle=[limit for limit in found if limit.reason not in {f.reason for f in listed}],
        histograms=_histograms(columns, pairs, found),
        margins=_margins(columns, pairs, found, ImageBank(inputs["ingest"])),
        tables=_tables(inputs),
        splits=_splits(inputs),
        split_names=_SPLITS,
    )


def _health(screen: Artifact) -> dict[str, dict[str, Any]]:
    """What every filter with a limit did; empty for screenings of before this was written down."""
    known = screen.json(HEALTH) if screen.names(HEALTH) else {}
    return {name: own for name, own in known.items() if own["limited"]}


def _percent(part: int, whole: int) -> str:
    if not whole or not part:
        return "0 %"
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 9.5 else f"{share:.1f} %" if share >= 0.05 else "< 0.1 %"


def _pairs(inputs: Inputs, ids: Sequence[str]) -> Pairs:
    """All screened pairs, in the order of their scores."""
    wanted = ["pair_id", "context_ids", "target_id", "relation_class"]
    mined = _by_pair(inputs["mine"].table("pairs.parquet").select(wanted))
    words = _by_pair(inputs["caption"].table("captions.parquet").select(["pair_id", "instruction"]))
    verdicts = _by_pair(inputs["screen"].table("accepted.parquet"))
    reasons = [list(verdicts[pair]["reject_reasons"] or ()) for pair in ids]
    return Pairs(
        pair_ids=ids,
        contexts=[mined[pair]["context_ids"] for pair in ids],
        targets=[mined[pair]["target_id"] for pair in ids],
        instructions=[words.get(pair, {}).get("instruction") or "" for pair in ids],
        categories=[mined[pair]["relation_class"] for pair in ids],
        accepted=np.array([bool(verdicts[pair]["accept"]) for pair in ids], bool),
        alone=[own[0] if len(own) == 1 else "" for own in reasons],
    )


def _by_pair(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["pair_id"]: row for row in table.to_pylist()}


def _histograms(
    columns: Mapping[str, Values], pairs: Pairs, found: Sequence[Limit]
) -> list[Histogram]:
    is_edit = np.array([bool(contexts) for contexts in pairs.contexts], bool)
    comments = {f.name: f.metadata[b"comment"].decode() for f in PAIR_SCORES}
    drawn = []
    for score, values in columns.items():
        known = measured(score, values, is_edit)
        if known.any():
            own = [limit for limit in found if limit.column == score]
            without = int((~known).sum())
            drawn.append(histogram(score, values[known], without, own, comments.get(score, "")))
    return drawn


def _margins(
    columns: Mapping[str, Values], pairs: Pairs, found: Sequence[Limit], bank: ImageBank
) -> list[Margin]:
    is_edit = np.array([bool(contexts) for contexts in pairs.contexts], bool)
    each = (
        margin(
            limit,
            columns[limit.column],
            measured(limit.column, columns[limit.column], is_edit),
            pairs,
            bank,
            _SAMPLES,
        )
        for limit in found
    )
    return [one for one in each if one is not None]


def _splits(inputs: Inputs) -> list[tuple[str, int, tuple[int, ...]]]:
    """(category, mined, pairs in each split)."""
    mined = inputs["mine"].table("pairs.parquet").select(["pair_id", "relation_class"])
    kind_of = dict(zip(*mined.to_pydict().values(), strict=True))
    rows = inputs["shard"].table("splits.parquet").select(["pair_id", "split"]).to_pydict()
    kept = Counter(
        (kind_of[pair], split) for pair, split in zip(rows["pair_id"], rows["split"], strict=True)
    )
    all_mined = Counter(kind_of.values())
    return [
        (kind, all_mined[kind], tuple(kept[kind, split] for split in _SPLITS))
        for kind in RELATION_CLASSES
        if all_mined[kind]
    ]


def _tables(inputs: Inputs) -> list[tuple[str, list[tuple[str, int]], int]]:
    """(title, rows of a name and a count, names left out) of the images."""
    images = inputs["ingest"].table("images")
    sizes = zip(images["width_px"].to_pylist(), images["height_px"].to_pylist(), strict=True)
    columns = (
        ("Images by source", images["source"].to_pylist()),
        ("Images by licence", images["license_spdx"].to_pylist()),
        ("Images by size", [f"{width} × {height}" for width, height in sizes]),
        ("Images by format", images["format"].to_pylist()),
    )
    found = []
    for title, values in columns:
        counts = Counter(values).most_common()
        found.append((title, counts[:_LISTED], max(0, len(counts) - _LISTED)))
    return found
