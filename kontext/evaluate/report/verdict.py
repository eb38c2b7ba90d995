"""The verdict in words: for the run page, the log and the model card."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kontext.evaluate.report.builder import number, templates
from kontext.evaluate.report.model import TableBlock
from kontext.evaluate.score import Scores
from kontext.evaluate.versions import Versions


def goal_rows(scores: Scores) -> list[dict[str, Any]]:
    """One row per goal, for a table: goal, figure, interval, n and verdict as text."""
    rows = []
    for goal in scores.goals:
        found = goal.measured
        value, low, high = (
            number(v, goal.unit, "not measured") for v in (found.value, found.low, found.high)
        )
        rows.append(
            {
                "goal": goal.title,
                "wanted": f"{goal.sense} {number(goal.goal, goal.unit)}",
                "measured": value,
                "interval": f"{low}–{high}" if found.n and found.low == found.low else "",
                "n": found.n,
                "verdict": goal.verdict,
            }
        )
    return rows


def headline(scores: Scores) -> str:
    """What the report may say above everything: no more than the rates of its edits do."""
    rates = [goal for goal in scores.goals if goal.unit == "%" and goal.verdict != "not measured"]
    if any(goal.reached for goal in rates):
        return "A small Kontext, trained from scratch, edits images it has never seen"
    if any(goal.measured.value > 0 for goal in rates):
        return "A small Kontext, trained from scratch: no kind of edit reaches its goal yet"
    return "A small Kontext, trained from scratch, that cannot edit yet"


def verdict_markdown(scores: Scores, versions: Versions, page: Path) -> str:
    """The verdict for the run page, with the goals as a table."""
    template = templates().get_template("verdict.md")
    shown = {"summary": scores.summary, "rows": goal_rows(scores), "page": page}
    return template.render(shown, versions=versions.line) + "\n"


def versions_table(versions: Versions) -> TableBlock | None:
    """Every figure beside the tagged model's; None where nothing is compared."""
    if not versions.differences:
        return None
    columns = (
        "figure",
        "published",
        "now",
        "points",
        "95 % interval",
        "q",
        "detectable",
        "verdict",
    )
    rows = []
    for name, found in versions.differences.items():
        points, low, high = (
            f"{100 * value:+.1f}"
            for value in (found.value, found.interval.low, found.interval.high)
        )
        sides = (number(found.before, "%"), number(found.after, "%"))
        least = f"{100 * found.detectable:.0f}"
        cells = (f"{low} to {high}", f"{found.q:.3f}", least, found.words)
        rows.append((name.replace("/", ", "), *sides, points, *cells))
    note = (
        "The same items, compared one by one, with 95 % intervals in points. q: the p-value with "
        "all rows in view (Benjamini and Hochberg). Detectable: the difference, in points, that so "
        "many items show in four of five cases. Equivalent: within "
        f"{100 * next(iter(versions.differences.values())).margin:g} points."
    )
    return TableBlock("Beside the published model", columns, tuple(rows), note)


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
