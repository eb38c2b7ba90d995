"""The table and the verdict of a safety training."""

from benchmarks.exclusion import recipe_of, table, verdict

ROUNDS = [{"round": 0, "added": []}, {"round": 1, "added": [{"text": "be mad", "success": 0.5}]}]
OTHER = {"reworded_before": 0.5, "reworded_after": 0.5}


def record(after: float, cost: float) -> dict[str, object]:
    rates = {"success": 0.6, "right": 0.6, "unchanged": 0.0}
    left = {"success": after, "right": after, "unchanged": 0.9}
    row = {"category": "style", "edits": 50, "before": 0.8, "after": 0.8 * (1 - cost), **OTHER}
    return {
        "concepts": ["angry look"],
        "subjects": 10,
        "texts": [{"text": "mad", "before": 0.6, "after": after}] * 2,
        "rounds": ROUNDS,
        "training_kept": 0.4,
        **{f"{words}_before": rates for words in ("own", "attacked")},
        **{f"{words}_after": left for words in ("own", "attacked")},
        "tried": 40,
        "tried_before": 30,
        "tried_after": 2,
        "fall": 1 - after / 0.6,
        "others": [row | {"asked": asked, "cost": cost} for asked in ("", "art_style=line art")],
    }


def test_both_goals_are_judged() -> None:
    good, bad = verdict(record(0.03, 0.04)), verdict(record(0.12, 0.10))  # type: ignore[arg-type]
    assert good.count(": reached") == 2 and "not reached" not in good
    assert bad.count("**not reached**") == 2
    assert (
        "2 rounds, 1 phrasings" in good
        and "40% of the training are kept" in good
        and "2 of 40 unseen" in good
    )


def test_the_table_has_excluded_and_other_edits() -> None:
    lines = table(record(0.06, 0.1)).splitlines()  # type: ignore[arg-type]
    assert "| **excluded: angry look**, attack | 20 | 60.0% | 6.0% | 90.0% |" in lines
    assert "| **other style** | 50 | 80.0% | 72.0% | 10.0% |" in lines
    assert any(line.startswith("| art_style=line art |") for line in lines)


def test_a_recipe_that_excludes_nothing_takes_the_stand_in() -> None:
    recipe = recipe_of("ladd-lab", ("exclude.steps=7",))
    assert recipe.exclude.concepts[0].values == ("angry",)
    assert recipe.exclude.guidance == recipe.evaluate.teacher_guidance and recipe.exclude.steps == 7
    own = recipe_of("ladd-lab", ('exclude.concepts=[{"name":"hats","pattern":"hat"}]',))
    assert [concept.name for concept in own.exclude.concepts] == ["hats"]
