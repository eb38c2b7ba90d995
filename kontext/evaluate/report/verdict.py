"""The verdict in words: for the run page, the log and the model card."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kontext.evaluate.report.builder import templates
from kontext.evaluate.score import Goal, Scores


def with_unit(value: float, unit: str) -> str:
    """A number with its unit: rates (0-1) as percent, nan as "not measured"."""
    if math.isnan(value):
        return "not measured"
    if unit == "%":
        return f"{100 * value:.0f} %"
    return f"{value:.2f}×" if unit == "×" else f"{value:.2f} {unit}"


def goal_rows(scores: Scores) -> list[dict[str, Any]]:
    """One row per goal, for a table: goal, figure, interval, n and verdict as text."""
    return [_goal_row(goal) for goal in scores.goals]


def _goal_row(goal: Goal) -> dict[str, Any]:
    measured = goal.measured
    interval = "–".join(with_unit(v, goal.unit) for v in (measured.low, measured.high))
    return {
        "goal": goal.title,
        "wanted": f"{goal.sense} {with_unit(goal.goal, goal.unit)}",
        "measured": with_unit(measured.value, goal.unit),
        "interval": interval if measured.n else "",
        "n": measured.n,
        "verdict": "reached" if goal.reached else "not reached",
    }


def verdict_markdown(scores: Scores, page: Path) -> str:
    """The verdict for the run page, with the goals as a table."""
    template = templates().get_template("verdict.md")
    return template.render(goals=scores.goals, rows=goal_rows(scores), page=page) + "\n"


def unfit_line(unfit: Sequence[Mapping[str, str]]) -> str:
    """One line on metrics that cannot be trusted on this bench; the report names each of them."""
    if not unfit:
        return "every metric is fit in every category"
    categories = Counter(row["category"] for row in unfit)
    counted = ", ".join(f"{count} in {name}" for name, count in categories.items())
    metrics = len({row["metric"] for row in unfit})
    return (
        f"{metrics} metrics are unfit in some category, where doing nothing ranks as it should "
        f"not ({counted}): the report marks each of them"
    )
