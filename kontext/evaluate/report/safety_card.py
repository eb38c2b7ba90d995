"""The safety summary: what was decided, by which check, and whether the canaries were stopped.

Counts and thresholds only: no identifier, hash or picture of a dropped subject is read here.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from kontext.evaluate.exclusion.record import RECORD, exclusion_line
from kontext.evaluate.report.builder import number
from kontext.evaluate.report.model import TableBlock
from kontext.store.artifacts.artifact_store import Artifact
from schemas.risks import risks

_OUTCOMES = ("pass", "drop", "quarantine", "unmatchable", "error")
_CHECKS = {
    "hash_gate": "hash gate",
    "classifier": "image classifiers",
    "text_rule": "text rules",
    "pair_rule": "pair rule",
}
_SCORES = (
    *((r.column, f"{r.name}, {r.classifier}", r.column) for r in risks().values()),
    ("exposure_delta", "rise in exposure", "exposure_delta_max"),
)
Inputs = Mapping[str, Artifact]


def decisions(inputs: Inputs) -> pa.Table:
    """Check, provider, outcome and reason of every decision of ingest and screen."""
    wanted = ["check", "provider", "outcome", "reason"]
    parts = [
        inputs[stage].table("decisions.parquet").select(wanted) for stage in ("ingest", "screen")
    ]
    return pa.concat_tables(parts, promote_options="permissive")


def facts(inputs: Inputs) -> list[tuple[str, str]]:
    """The headline: canaries, images checked, drops, list state, as ingest has recorded them."""
    rows = decisions(inputs).to_pylist()
    dropped = Counter(row["check"] for row in rows if row["outcome"] == "drop")
    canaries, lists = gate_facts(inputs["ingest"])
    planned = int(inputs["ingest"].manifest.config.get("canaries", 0))
    state = ("canary bank only", "no external hash list was given")
    if lists:
        state = (f"{lists} external hash list{'' if lists == 1 else 's'}", "lists in force")
    return [
        (f"{canaries} of {planned}", "canaries stopped before anything was written"),
        (f"{inputs['ingest'].table('images').num_rows:,}", "images through the hash gate"),
        (f"{max(0, dropped['hash_gate'] - canaries):,}", "other hash-gate stops"),
        (f"{sum(n for check, n in dropped.items() if check != 'hash_gate'):,}", "drops by policy"),
        state,
    ]


def gate_facts(ingest: Artifact) -> tuple[int, int]:
    """Canaries that were stopped, and hash lists that were matched, as an ingest has recorded them.

    0 lists where the artifact is from before they were counted: then its recipe says what was meant
    to be matched, not what was.
    """
    metrics = ingest.manifest.metrics
    stopped, lists = (metrics.get(name) for name in ("canaries_stopped", "hash_lists"))
    return int(stopped or 0), int(lists or 0)


def tables(inputs: Inputs) -> list[TableBlock]:
    """Decisions by check and outcome, reasons of drops, thresholds, and classifier scores."""
    policy = inputs["screen"].json("policy.json")
    counts: Counter[tuple[str, str, str]] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    for row in decisions(inputs).to_pylist():
        counts[row["check"], row["provider"], row["outcome"]] += 1
        if row["outcome"] in ("drop", "quarantine", "error"):
            reasons[row["check"], row["reason"]] += 1
    checks = sorted({key[:2] for key in counts}, key=lambda k: (list(_CHECKS).index(k[0]), k[1]))
    blocks = [
        TableBlock(
            "Decisions",
            ("check", "by", *_OUTCOMES),
            tuple(
                (_CHECKS[check], provider, *(counts[check, provider, o] for o in _OUTCOMES))
                for check, provider in checks
            ),
            "All drops are recorded; passes of classifiers and rules are sampled. Unmatchable: the "
            "perceptual hash is too poor to match, so the classifiers' limits are stricter.",
        ),
        TableBlock(
            "Why something was stopped",
            ("check", "reason", "count"),
            tuple((_CHECKS[c], r.replace("_", " "), n) for (c, r), n in sorted(reasons.items())),
        ),
        _scores(inputs["screen"].table("pair_scores.parquet"), policy["thresholds"]),
        TableBlock(
            f"Policy {policy['version']}",
            ("threshold", "value"),
            tuple((k.replace("_", " "), v) for k, v in sorted(policy["thresholds"].items())),
            str(policy.get("description", "")),
        ),
    ]
    return [block for block in [*blocks, *_exclusion(inputs)] if block.rows]


def _exclusion(inputs: Inputs) -> list[TableBlock]:
    """Success of the excluded edit and of others, before and after safety training, if any."""
    if "exclude" not in inputs:
        return []
    found = inputs["exclude"].json(RECORD)
    excluded = (
        (
            f"{', '.join(found['concepts'])}, {words}",
            found[f"{name}_before"],
            found[f"{name}_after"],
        )
        for name, words in (("own", "in the data's words"), ("attacked", "under attack"))
    )
    rows = [(what, number(a["success"], "%"), number(b["success"], "%")) for what, a, b in excluded]
    others = [row for row in found["others"] if not row["asked"]]
    rows += [
        (f"other {row['category']} edits", number(row["before"], "%"), number(row["after"], "%"))
        for row in others
    ]
    return [
        TableBlock(
            "Safety training of the teacher",
            ("edits", "success before", "after"),
            tuple(rows),
            exclusion_line(inputs).replace("**", ""),
        )
    ]


def _scores(scores: pa.Table, limits: Mapping[str, float]) -> TableBlock:
    """Raw safety scores of pairs (the largest of a pair's images) against their limits."""
    rows = []
    for column, title, limit in _SCORES:
        if column not in scores.column_names:  # not screened for this risk
            continue
        values = scores[column].to_numpy().astype(np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            shown = (np.percentile(values, 50), np.percentile(values, 99), values.max())
            rows.append((title, *(round(float(v), 3) for v in shown), limits.get(limit)))
    return TableBlock(
        "Safety scores of pairs",
        ("score", "median", "99th percentile", "highest", "limit"),
        tuple(rows),
        f"{scores.num_rows:,} pairs, each by the worst of its images. Scores are stored raw; "
        "limits are applied by SQL views.",
    )
