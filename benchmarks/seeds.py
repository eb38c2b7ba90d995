"""What a recipe reaches over seeds of its training: one table of every goal.

    kontext run --direct --recipe demo
    python -m benchmarks.seeds --home HOME [--recipe demo] [--seeds 3] [--set distill.steps=80]
        [--out benchmarks/results/demo_seeds-cpu.json]

Teacher and student are trained anew with each seed, on the same data and autoencoder; what the home
has already is reused. The held-out items are the same for all seeds. A rate is the mean over items
of the share of seeds whose edit succeeds; its interval is of the items' subjects, and is no
narrower than that of independent items of one seed. Beside it stands the best of the editors that
are wrong on purpose.
"""

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.evaluate.categories import SCORED_CATEGORIES
from kontext.evaluate.false_editors import FALSE_EDITORS
from kontext.evaluate.score import SUCCESS_GOALS
from kontext.evaluate.statistics import Interval, cluster_rate
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipes import Recipe, load_recipe

EDITORS = ("student", "student_reworded", "teacher_short", "teacher", "codec_target")
_TITLES = ("student", "in other words", "teacher, few steps", "teacher", "ceiling")


@dataclass(frozen=True)
class Rates:
    """One category over all seeds."""

    category: str
    goal: float | None  # none of what is scored apart without one
    by_seed: list[float]  # of the student
    editors: dict[str, Interval]  # of EDITORS
    wrong: str  # the editor that is best of those that are wrong on purpose
    of_wrong: Interval

    @property
    def apart(self) -> bool:
        """The student's interval lies above that of the best wrong editor."""
        return self.editors["student"].low > self.of_wrong.high


def evaluated(recipe: Recipe, home: Path, seed: int) -> Artifact:
    """The evaluation of a teacher and a student that were trained with a seed."""
    trained = recipe.model_copy(
        update={
            "finetune": recipe.finetune.model_copy(update={"seed": seed}),
            "distill": recipe.distill.model_copy(update={"seed": seed}),
        }
    )
    engine = Engine(trained, f"file://{home.resolve()}/store", "", home, stages=STAGES)
    reporter = Reporter(logging.getLogger("benchmarks"))
    stages = list(engine.digests())
    for stage in stages[stages.index("finetune") : stages.index("evaluate") + 1]:
        made = engine.run_stage(stage, reporter)
    return engine.artifacts.open("evaluate", made.digest)


def rates(tables: Sequence[pa.Table]) -> list[Rates]:
    """Per category, of one table of evaluated items a seed (`items.parquet`)."""
    categories = pc.unique(tables[0]["category"]).to_pylist()
    return [_rates(tables, c, SUCCESS_GOALS.get(c)) for c in SCORED_CATEGORIES if c in categories]


def _rates(tables: Sequence[pa.Table], category: str, goal: float | None) -> Rates:
    found = {name: _over_seeds(tables, category, name) for name in EDITORS}
    wrong = {name: _over_seeds(tables[:1], category, name) for name in FALSE_EDITORS}
    best = max(wrong, key=lambda name: wrong[name].value)
    by_seed = [float(_items(table, category, "student")[0].mean()) for table in tables]
    return Rates(category, goal, by_seed, found, best, wrong[best])


def _over_seeds(tables: Sequence[pa.Table], category: str, editor: str) -> Interval:
    each = [_items(table, category, editor) for table in tables]
    ids = {pairs for *_, pairs in each}
    if len(ids) != 1:
        raise SystemExit(f"the seeds were not scored on the same items ({category}, {editor})")
    share = np.mean([success for success, *_ in each], axis=0)
    return cluster_rate(share, each[0][1])


def _items(
    table: pa.Table, category: str, editor: str
) -> tuple[np.ndarray[Any, Any], list[str], tuple[str, ...]]:
    """Success of the items, their clusters, and their names; in the order of their names."""
    asked = (pc.field("category") == category) & (pc.field("editor") == editor)
    rows = table.filter(asked).sort_by("pair_id")
    success = rows["success"].to_numpy().astype(np.float64)
    return success, rows["cluster"].to_pylist(), tuple(rows["pair_id"].to_pylist())


def goals(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The goals that are no rate of success: title, goal, and the figure of each seed."""
    first = [goal for goal in scores[0]["goals"] if goal["name"] not in SUCCESS_GOALS]
    return [
        {
            **{key: goal[key] for key in ("title", "sense", "goal", "unit")},
            "by_seed": [_named(each, goal["name"])["value"] for each in scores],
        }
        for goal in first
    ]


def _named(scores: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(goal for goal in scores["goals"] if goal["name"] == name)
    return found


def table(found: Sequence[Rates], others: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"| | {' | '.join(_TITLES)} | each seed | best wrong edit | goal |",
        "|---" * (len(_TITLES) + 4) + "|",
    ]
    for row in found:
        student = row.editors["student"]
        figures = [_percent(row.editors[name]) for name in EDITORS[1:]]
        named = f", {row.wrong}" if row.of_wrong.value else ""
        wrong = f"{_percent(row.of_wrong)}{named}{'' if row.apart else ' (overlaps)'}"
        seeds = ", ".join(f"{value:.0%}" for value in row.by_seed)
        own = f"{_percent(student)} ({_percent(student.low)} to {_percent(student.high)})"
        cells = (row.category, own, *figures, seeds, wrong, _against(row.goal, student.value))
        lines.append(f"| {' | '.join(cells)} |")
    for goal in others:
        values = [value for value in goal["by_seed"] if value is not None]
        if not values:
            continue
        mean = float(np.mean(values))
        there = mean >= goal["goal"] if goal["sense"] == "≥" else mean <= goal["goal"]
        own = ", ".join(_figure(value, goal["unit"]) for value in values)
        cells = [goal["title"], _figure(mean, goal["unit"]), *[""] * (len(EDITORS) - 1), own, ""]
        wanted = f"{goal['sense']} {_figure(goal['goal'], goal['unit'])}"
        lines.append(
            f"| {' | '.join(cells)} | {wanted}, {'reached' if there else '**not reached**'} |"
        )
    return "\n".join(lines)


def _against(goal: float | None, value: float) -> str:
    if goal is None:
        return "none"
    return f"{goal:.0%}, {'reached' if value >= goal else '**not reached**'}"


def _percent(value: Interval | float) -> str:
    return f"{value.value if isinstance(value, Interval) else value:.0%}"


def _figure(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit == "%" else f"{value:.2f} {unit}"


def main(argv: Sequence[str] | None = None) -> int:
    """Train with every seed that is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--home", type=Path, required=True, help="KONTEXT_HOME of the recipe's run")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--out", type=Path, help="write the record as JSON")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = load_recipe(args.recipe, args.set)
    made = [evaluated(recipe, args.home, seed) for seed in range(args.seeds)]
    found = rates([artifact.table("items.parquet") for artifact in made])
    others = goals([artifact.json("scores.json") for artifact in made])
    print(table(found, others))
    if args.out:
        record = {
            "recipe": args.recipe,
            "evaluations": [f"evaluate/{artifact.manifest.digest}" for artifact in made],
            "rates": [asdict(row) for row in found],
            "goals": others,
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
