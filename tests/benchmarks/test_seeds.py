"""Goals over seeds: rates of the same items, their intervals, and the best wrong editor."""

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.seeds import EDITORS, goals, rates, table
from kontext.evaluate.false_editors import FALSE_EDITORS


def items(
    student: list[bool],
    palette: list[bool] | None = None,
    first: int = 0,
    category: str = "style",
) -> pa.Table:
    """40 items of 20 subjects; every editor but the student fails, but for `palette`."""
    rows = []
    for editor in (*EDITORS, *FALSE_EDITORS):
        done = {"student": student, "palette": palette or [False] * 40}.get(editor, [False] * 40)
        rows += [
            {
                "pair_id": f"p{first + i:03}", "category": category, "editor": editor,
                "cluster": f"c{i % 20}", "success": done[i],
            }
            for i in range(40)
        ]  # fmt: skip
    return pa.Table.from_pylist(rows[::-1])  # in any order


def test_a_rate_is_the_mean_over_seeds_and_items() -> None:
    one, two = [i < 30 for i in range(40)], [i < 10 for i in range(40)]
    (row,) = rates([items(one), items(two)])
    assert row.by_seed == [0.75, 0.25] and row.editors["student"].value == 0.5
    low, high = row.editors["student"].low, row.editors["student"].high
    assert 0.3 < low < 0.5 < high < 0.7
    assert (row.category, row.goal, row.of_wrong.value) == ("style", 0.6, 0)
    assert row.apart and row.editors["teacher"].value == 0
    assert "| 0% | 60%, **not reached** |" in table(
        [row], []
    )  # no wrong edit is named that never passes


def test_wrong_edits_count_once_and_overlap_is_said() -> None:
    student, palette = [i < 24 for i in range(40)], [i < 16 for i in range(40)]
    (row,) = rates([items(student, palette)] * 3)
    assert (row.wrong, row.of_wrong.value, row.of_wrong.n) == ("palette", 0.4, 40)
    assert not row.apart
    assert "40%, palette (overlaps)" in table([row], [])
    assert "60%, reached" in table([row], []) and "not reached" not in table([row], [])


def test_what_has_no_goal_is_shown_beside_the_best_wrong_edit() -> None:
    (row,) = rates([items([True] * 40, [i < 20 for i in range(40)], category="removal")])
    assert row.goal is None
    text = table([row], [])
    assert "| removal | 100%" in text and "| 50%, palette | none |" in text


def test_other_items_are_no_seeds_of_one_figure() -> None:
    with pytest.raises(SystemExit, match="not scored on the same items"):
        rates([items([True] * 40), items([True] * 40, first=1)])


def test_other_goals_are_means_that_may_be_missing() -> None:
    def scores(outside: float | None) -> dict[str, object]:
        shared = {"sense": "≤", "goal": 1.3, "unit": "x"}
        names = ("style", "outside", "unread")
        values = (0.5, outside, None)
        return {
            "goals": [
                {"name": n, "title": n, "value": v, **shared}
                for n, v in zip(names, values, strict=True)
            ]
        }

    found = goals([scores(1.2), scores(1.6)])
    assert [row["title"] for row in found] == ["outside", "unread"]
    text = table([], found)
    assert "1.40 x" in text and "**not reached**" in text and "unread" not in text
    assert float(np.mean(found[0]["by_seed"])) == pytest.approx(1.4)
