"""The comparison of ways to distil: equal operations, and a table that says what was measured."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.distillation import (
    EVERY,
    FIGURES,
    STUDENTS,
    Row,
    Students,
    equal_steps,
    main,
    plots,
    student_section,
    table,
)
from kontext.parallel.flops import Tokens
from kontext.train.methods import distillation
from schemas.recipes import load_recipe

TOKENS = Tokens(20, 64, 64)


@pytest.mark.parametrize("name", EVERY)
def test_students_are_trained_for_the_operations_of_ladds_steps(name: str) -> None:
    recipe = load_recipe("ladd-lab")
    shape, changes = recipe.finetune.shape, EVERY[name]
    steps = equal_steps(recipe, shape, TOKENS, changes)
    ladd, own = (student_section(recipe, each) for each in (STUDENTS["LADD"], changes))
    budget = recipe.distill.steps * distillation(ladd).step_flops(ladd, shape, TOKENS)
    step = distillation(own).step_flops(own, shape, TOKENS)
    assert abs(steps * step - budget) <= step / 2
    assert (steps == recipe.distill.steps) == name.startswith("LADD")


def test_settings_of_a_student_are_checked() -> None:
    recipe = load_recipe("ladd-lab")
    assert student_section(recipe, STUDENTS["DMD2"]).method == "dmd2"
    with pytest.raises(ValueError, match="lr_nothing"):
        student_section(recipe, {"lr_nothing": 1.0})


def test_the_table_has_means_and_spreads_over_seeds_and_an_interval_over_items() -> None:
    bench: Any = SimpleNamespace(items=[SimpleNamespace(cluster=str(i)) for i in range(4)])
    row = Row("LADD", 4, 4)
    for value in (1.0, 3.0):
        row.seeds.append(dict.fromkeys(FIGURES, value))
        row.right.append(np.array([1.0, 0.0, value > 2, 0.0]))
    head, _, line = table([row], bench).splitlines()
    assert [cell.strip() for cell in head.split("|")][2:4] == ["steps", "passes"]
    assert line.startswith("| LADD | 4 | 4 | 2.00 ± 1.41 |")
    interval = row.rate(bench)
    assert interval.value == pytest.approx(3 / 8) and interval.low < 3 / 8 < interval.high


def test_a_row_of_one_seed_shows_that_nothing_is_known_of_its_spread() -> None:
    bench: Any = SimpleNamespace(items=[SimpleNamespace(cluster="a"), SimpleNamespace(cluster="b")])
    row = Row("teacher", 1, 2, [dict.fromkeys(FIGURES, 1.0)], [np.array([1.0, 0.0])])
    assert "1.00 ± nan" in table([row], bench)


def test_plots_are_drawn_of_what_each_student_has(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ("accuracy", "student_grad_norm", "real_logit", "wrong_logit")
    judged = [[dict.fromkeys(names, 0.1 * (step + seed)) for step in range(5)] for seed in range(2)]
    histories: dict[str, Any] = dict.fromkeys(EVERY, judged)
    histories["anchor alone"] = [[{"student_grad_norm": 1.0}] * 15] * 2
    plots(tmp_path, histories)
    for name in ("accuracy", "gradients", "negatives"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_without_a_teacher_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no teacher of recipe ladd-lab"):
        Students(load_recipe("ladd-lab"), tmp_path, "")
    with pytest.raises(SystemExit):
        main(["--home", str(tmp_path), "--noises", "1"])
