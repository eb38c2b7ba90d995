"""A later evaluation beside an earlier one, on the items that both have."""

import json

import pyarrow as pa
import pytest

from kontext.evaluate.report.verdict import versions_table
from kontext.evaluate.versions import ALL, MODELS, Versions, compare, compare_again


def items(
    passed: int, of: int = 60, first: int = 0, category: str = "local"
) -> list[dict[str, object]]:
    """Items, two of a concept, of both models; the first ones of each pass."""
    return [
        {
            "pair_id": f"{category}-{first + i:03}", "category": category, "editor": editor,
            "cluster": f"{category}-{(first + i) // 2}", "success": i < passed,
        }
        for editor in (*MODELS, "identity")
        for i in range(of)
    ]  # fmt: skip


def table(*rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist([row for each in rows for row in each][::-1])  # in any order


def test_every_category_and_all_of_both_models_are_compared() -> None:
    before = table(items(40), items(50, category="style"))
    found = compare(before, table(items(15), items(50, category="style")))
    wanted = {f"{model}/{name}" for model in MODELS for name in (ALL, "local", "style")}
    assert set(found.differences) == wanted and next(iter(found.differences)) == "student/all"
    local = found.differences["student/local"]
    assert (local.before, local.after, local.lost) == (pytest.approx(2 / 3), 0.25, 25)
    assert (found.items, found.before, found.after) == (120, 120, 120)
    assert set(found.fell) == {f"{m}/{name}" for m in MODELS for name in (ALL, "local")}
    assert "worse beyond the margin: student/all 75% → 54%, student/local 67% → 25%" in found.line
    assert found.line.startswith("worse (-20.8 points, 95 % interval ")


def test_only_items_in_common_count_and_without_any_nothing_does() -> None:
    before, after = table(items(30, first=0)), table(items(30, first=20))
    found = compare(before, after)
    assert (found.items, found.before, found.after) == (40, 60, 60)
    assert found.differences["student/all"].interval.n == 40
    assert "on 40 items in common, of 60 before)" in found.line and not found.doubt
    none = compare(before, table(items(30, category="style")))
    assert none.doubt == none.line and not Versions(why="none", first=True).doubt
    assert none.line == "not compared: no item is in both evaluations" and not none.differences
    assert versions_table(none) is None


def test_what_fell_in_one_category_or_has_gone_is_said_where_it_cannot_be_told_from_chance() -> (
    None
):
    before = table(items(40), items(6, of=10, category="style"), items(5, category="text"))
    found = compare(before, table(items(40), items(4, of=10, category="style")))
    assert not found.fell and list(found.lower) == ["student/style", "teacher/style"]
    assert found.missing == ("text",)
    assert found.line.endswith(
        "; lower beyond the margin, not told from chance: student/style 60% → 40%, teacher/style "
        "60% → 40%; no item in common: text"
    )
    told = found.as_dict()
    assert (told["lower"], told["missing"]) == (list(found.lower), ["text"])


def test_a_fall_of_20_points_in_one_of_six_categories_is_found_if_it_is_of_many_concepts() -> None:
    names = ("local", "global", "text", "style", "character")
    before = [items(40, category=name) for name in names]
    found = compare(table(*before), table(items(28), *before[1:]))
    assert list(found.fell) == ["student/local", "teacher/local"]


def test_the_same_model_is_compared_item_by_item_and_both_models_together() -> None:
    before, after = table(items(40)), table(items(32))
    again, other = compare_again(before, after), compare(before, after)
    assert list(again.differences) == ["both/all", "both/local"]
    found = again.differences["both/local"]
    assert (found.lost, found.interval.n, found.interval.clusters) == (16, 120, 60)
    # concepts are a sample of others: what is sure of these items is not yet of those
    assert found.p < other.differences["student/local"].p
    assert again.fell and compare_again(before, before).line.startswith("equivalent (+0.0 points")


def test_it_is_ready_for_json_and_for_the_report() -> None:
    found = compare(table(items(40)), table(items(39)))
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["fell"] == [] and plain["differences"]["student/all"]["lost"] == 1
    shown = versions_table(found)
    assert shown is not None and len(shown.rows) == 4
    assert shown.rows[0][:4] == ("student, all", "67 %", "65 %", "-1.7")
    assert Versions(why="there is none").as_dict()["line"] == "not compared: there is none"
