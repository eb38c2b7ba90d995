"""Files of a finished run: rows and verdicts as Parquet, the summary, the table and the page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kontext.evaluate.benches.public import Loaded
from kontext.evaluate.judges.base import Rubric
from kontext.evaluate.judges.judging import Judges, Verdicts
from kontext.evaluate.measures import MEASURES
from kontext.evaluate.public.items_page import NAME as ITEMS
from kontext.evaluate.public.items_page import items_page
from kontext.evaluate.public.journal import Journal, write_whole
from kontext.evaluate.public.measuring import Measurements
from kontext.evaluate.public.page import page
from kontext.evaluate.public.scores import (
    ALL,
    Column,
    by_category,
    columns,
    disagreement,
    judge_card,
    means,
    outcomes,
)
from kontext.evaluate.public.table import markdown
from kontext.store.parquet import parquet_bytes
from schemas.tables import REPLIES

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_TEXTS = ("item", "category", "base", "instruction", "outcome", "reason", "problem", "picture")


@dataclass(frozen=True)
class Judged:
    """What judges said, where any were asked. other: the run that this one is compared with."""

    rubric: Rubric | None = None
    judges: Judges | None = None
    verdicts: Verdicts = field(default_factory=Verdicts)
    duels: Verdicts = field(default_factory=Verdicts)
    other: Journal | None = None


def write_results(
    loaded: Loaded,
    journal: Journal,
    run: Mapping[str, Any],
    measured: Measurements,
    judged: Judged,
) -> dict[str, Any]:
    """Write all files of a run whose items all have rows. Returns the summary."""
    rubric, judges, verdicts, duels = judged.rubric, judged.judges, judged.verdicts, judged.duels
    models = judges.models if judges else ()
    shown = columns(loaded, measured, verdicts.rows, rubric, models[0] if models else "")
    summary = {
        "title": loaded.bench.title,
        "run": dict(run),
        "mean": loaded.bench.mean,
        "problems": [vars(problem) for problem in loaded.problems],
        "outcomes": outcomes(loaded.items, journal.rows),
        "columns": [
            {
                "name": column.name,
                "title": column.title,
                "unit": column.unit,
                "better": column.better,
                "definition": _definition(column.name, rubric),
                "card": own.said if (own := measured.cards.get(column.name)) else "",
                "scores": {
                    k: v.as_dict()
                    for k, v in by_category(loaded, column.values, column.unit).items()
                },
            }
            for column in shown
        ],
        "sets": measured.sets,
        "unavailable": measured.unavailable,
        "main": _main(loaded, rubric, shown),
        "judges": _judges(rubric, judges, verdicts),
        "pairwise": _pairwise(loaded, duels, models, judged.other),
    }
    files = {
        "items.parquet": parquet_bytes(_items(loaded, journal, shown)),
        "summary.json": (json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode(),
        "table.md": markdown(summary).encode(),
        "index.html": page(loaded, journal, summary, shown).encode(),
        ITEMS: items_page(loaded, journal, judges is not None, verdicts, duels).encode(),
    }
    if judges:
        rows = [*verdicts.rows, *({**row, "canary": "pairwise"} for row in duels.rows)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        even = [{name: row.get(name) for name in names} for row in rows]
        files["judgements.parquet"] = parquet_bytes(pa.Table.from_pylist(even))
        replies = [REPLIES.empty_table(), *verdicts.replies, *duels.replies]
        files["replies.parquet"] = parquet_bytes(pa.concat_tables(replies))
    for name, data in files.items():
        write_whole(journal.folder / name, data)
    return summary


def _main(loaded: Loaded, rubric: Rubric | None, shown: list[Column]) -> str:
    """Name of the column that papers print; empty where nothing judges, or has no figure."""
    if rubric is not None:
        return rubric.main
    first = "" if loaded.bench.judge else next(iter(loaded.bench.measures), "")
    return first if any(column.name == first for column in shown) else ""


def _definition(name: str, rubric: Rubric | None) -> str:
    if rubric is not None and name in rubric.scores:
        return f"{rubric.title}, {rubric.least:g} to {rubric.most:g}"
    return MEASURES[name].definition


def _judges(rubric: Rubric | None, judges: Judges | None, found: Verdicts) -> dict[str, Any] | None:
    """Who judged, by which words, and how far they can be believed."""
    if rubric is None or judges is None:
        return None
    served = sorted({str(model) for table in found.replies for model in table["model"].to_pylist()})
    return {
        "rubric": rubric.title,
        "endpoint_models": [model for model in served if model],
        "passes": judges.passes,
        "seed": judges.seed,
        "prompt_sha256": {kind: sorted(own) for kind, own in sorted(found.wordings.items())},
        "cards": [judge_card(rubric, found.rows, model) for model in judges.models],
        "disagreement": disagreement(rubric, found.rows, judges.models),
    }


def _pairwise(
    loaded: Loaded, duels: Verdicts, models: tuple[str, ...], other: Journal | None
) -> list[dict[str, Any]] | None:
    """Share of wins against the other run, by judge; a tie is half a win."""
    if other is None:
        return None
    found = []
    for model in models:
        wins = means(duels.rows, model, "win")
        against = means(duels.rows, model, "contradicted")
        values = np.array([wins.get(item.id, np.nan) for item in loaded.items])
        scores = by_category(loaded, values, "%")
        whole = scores[ALL]
        verdict = "undecided"
        if whole.low > 0.5 or whole.high < 0.5:
            verdict = "better" if whole.low > 0.5 else "worse"
        found.append(
            {
                "judge": model,
                "items": len(wins),
                "unusable": sum(r["status"] != "ok" and r["judge"] == model for r in duels.rows),
                "orders_contradict": float(np.mean(list(against.values()))) if against else None,
                "verdict": verdict,
                "wins": {k: v.as_dict() for k, v in scores.items()},
            }
        )
    return found


def _items(loaded: Loaded, journal: Journal, shown: list[Column]) -> pa.Table:
    """One row an item, with the values of the table's columns."""
    rows = []
    for number, item in enumerate(loaded.items):
        own = journal.rows[item.id]
        known = {name: getattr(item, name) for name in ("category", "base", "instruction")}
        row = {name: own.get(name, known.get(name, "")) for name in _TEXTS}
        row |= {name: own.get(name) for name in ("width", "height", "seconds")}
        for column in shown:
            value = float(column.values[number])
            row[column.name] = value if value == value else None
        rows.append(row)
    schema = pa.schema(
        [
            *(pa.field(name, pa.string()) for name in _TEXTS),
            *(pa.field(name, pa.int64()) for name in ("width", "height")),
            pa.field("seconds", pa.float64()),
            *(pa.field(column.name, pa.float64()) for column in shown),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)
