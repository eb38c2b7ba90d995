"""A stranger's look: four choices, one of them asked; sheets that show no more; the score."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import naming
from kontext.data.shards.read import PairRow
from kontext.evaluate.categories import scored_category
from tests.evaluate.arena import world


def row(
    number: int, value: str, context: int, text: str = "", relation: str = "hat", start: str = ""
) -> PairRow:
    kept = dict.fromkeys(
        ("instruction_short", "instruction_inverse", "target_caption", "context_caption"), ""
    )
    return PairRow(
        pair_id=f"p{number}", relation_class="local", relation=relation, **kept,
        instruction=text or f"give them a {value}",
        params={"attribute": relation, "from": start, "to": value},
        source="drawn", license_spdx="CC0-1.0", split="test", contexts=(context,),
        target=100 + number,
    )  # fmt: skip


def test_one_of_four_was_asked_and_the_others_ask_for_something_else() -> None:
    rows = [row(i, f"value {i % 6}", context=i // 6) for i in range(24)]
    rows += [row(30 + i, "value 0", 0, f"in other words {i}") for i in range(3)]
    for seed in range(20):
        four = naming.choices(rows[0], rows, random.Random(seed))
        assert four is not None and len(set(four)) == 4
        assert [text for text in four if text.endswith("value 0") or "words" in text] == [
            rows[0].instruction
        ]
    fours = [naming.choices(rows[0], rows, random.Random(seed)) or [] for seed in range(40)]
    assert {four.index(rows[0].instruction) for four in fours} == {0, 1, 2, 3}


def test_edits_of_the_same_context_come_first_and_too_few_are_no_question() -> None:
    own = [row(i, f"value {i}", context=0) for i in range(4)]
    others = [row(10 + i, f"other {i}", context=1) for i in range(9)]
    four = naming.choices(own[0], own + others, random.Random(0))
    assert four is not None and set(four) == {one.instruction for one in own}
    assert naming.choices(own[0], own[:3], random.Random(0)) is None


def test_no_choice_is_ruled_out_by_the_context() -> None:
    """What another context could be asked for is a choice only where this one could be, too."""
    own = row(0, "red", context=0, start="none")
    fitting = [row(1 + i, f"hat {i}", context=1 + i, start="none") for i in range(3)]
    worn = [row(10 + i, f"other {i}", context=10 + i, start="blue") for i in range(9)]
    unknown = [row(20 + i, f"horn {i}", 20 + i, relation="horn", start="none") for i in range(9)]
    for seed in range(9):
        four = naming.choices(own, [own, *worn, *unknown, *fitting], random.Random(seed))
        assert four and set(four) == {one.instruction for one in (own, *fitting)}
    four = naming.choices(own, [own, *worn, *unknown, *fitting[:2]], random.Random(0))
    assert four and {one.instruction for one in fitting[:2]} < set(four), "what fits comes first"
    horned = row(30, "blunt", context=0, relation="horn", start="none")  # the same context
    four = naming.choices(own, [own, horned, *worn, *unknown], random.Random(0))
    assert four and horned.instruction in four and sum("horn" in text for text in four) == 2


def test_categories_take_turns() -> None:
    rows = [row(i, "red", i, relation="hat" if i < 30 else "color") for i in range(34)]
    found = [scored_category(one) for one in naming.chosen(rows, 8, random.Random(0))]
    assert sorted(found) == ["local"] * 4 + ["recolouring"] * 4


def test_a_score_counts_what_is_missing_as_wrong_and_refuses_what_it_cannot_read() -> None:
    key = [{"answer": a, "category": c} for a, c in zip("abcd", ("x", "x", "y", "y"), strict=True)]
    assert naming.score(key, "1 a\n2 B\n\n3 d\n") == [("all", 2, 4), ("x", 2, 2), ("y", 0, 2)]
    for answers in ("1 e", "one a", "1 a\n1 a", "5 a", "0 a", "1"):
        with pytest.raises(ValueError):
            naming.score(key, answers)


def test_sheets_from_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world.home(tmp_path / "home")
    naming.main(
        ["sheet", "--home", f"{tmp_path}/home", "--out", f"{tmp_path}/out", "--editor", "a"]
    )
    key = json.loads((tmp_path / "out/key.json").read_text())
    listed = (tmp_path / "out/choices.md").read_text().splitlines()
    assert len(key) == len(listed) == world.ITEMS
    sheets = sorted((tmp_path / "out").glob("sheet-*.png"))
    assert len(sheets) == 2  # fifteen, then one
    first = Image.open(sheets[0])
    shown = {first.getpixel((left, 95)) for left in range(first.width // 3)}
    assert (90, 120, 160) in shown and (255, 255, 255) in shown
    (tmp_path / "answers").write_text(
        "\n".join(f"{number} {one['answer']}" for number, one in enumerate(key, 1))
    )
    capsys.readouterr()
    naming.main(["score", f"{tmp_path}/out", f"{tmp_path}/answers"])
    assert capsys.readouterr().out.startswith(f"all: {world.ITEMS} of {world.ITEMS}, 100%")


def test_a_blind_sheet_shows_the_contexts_alone(tmp_path: Path) -> None:
    world.home(tmp_path / "home")
    seen = []
    for name, extra in (("open", []), ("blind", ["--blind"])):
        out = ["--home", f"{tmp_path}/home", "--out", f"{tmp_path}/{name}", "--editor", "a"]
        naming.main(["sheet", *out, *extra])
        page = Image.open(tmp_path / name / "sheet-1.png").convert("RGB")
        seen.append({page.getpixel((left, 95)) for left in range(page.width // 3)})
        seen.append((tmp_path / name / "choices.md").read_text())
    shown, asked, blind, blindly = seen
    assert asked == blindly and shown > blind > {(255, 255, 255)}
