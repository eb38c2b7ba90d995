import math
from pathlib import Path

import numpy as np
import pytest

from kontext.evaluate.benches.held_out import Bench, Item
from kontext.evaluate.false_editors import TrainingEdits
from kontext.evaluate.metrics import METRICS, Scoring
from kontext.evaluate.pixels import change_mask
from kontext.evaluate.references import EDITORS, other_targets, run_editors
from kontext.evaluate.report.verdict import goal_rows, verdict_markdown
from kontext.evaluate.score import Goal, score, scores_json, unfit_metrics
from kontext.evaluate.statistics import Interval, cluster_rate
from kontext.evaluate.versions import Versions
from schemas.sections.evaluation import EvaluateConfig

CONFIG = EvaluateConfig(items_per_category=4)


def exactly(value: float, n: int = 40) -> Interval:
    return Interval(value, value, value, n, n, "wilson")


def bench(n: int = 6) -> Bench:
    rng = np.random.default_rng(0)
    context = rng.integers(0, 255, (n, 16, 16, 3)).astype(np.uint8)
    target = context.copy()
    target[:, 4:12, 4:12] = 255 - target[:, 4:12, 4:12]
    items = tuple(
        Item(
            f"{i:064x}", "local" if i % 2 else "text", "r", "a=b", "do", "t", "c", "s", f"k{i // 2}"
        )
        for i in range(n)
    )
    return Bench(items, context, target, change_mask(context, target, 0.06), 0.06)


class Copying:
    """Stands in for trained weights: a student that is right, a teacher that does nothing."""

    student, teacher, few_steps = "student", "teacher", 4

    def __init__(self, made: Bench) -> None:
        self.made = made

    def round_trip(self, images: np.ndarray) -> np.ndarray:
        return np.clip(images.astype(int) + 4, 0, 255).astype(np.uint8)

    def edit(
        self,
        editor: str,
        contexts: list[list[np.ndarray]],
        texts: list[str],
        ids: list[str],
        size: tuple[int, int] | None = None,
        steps: int | None = None,
    ) -> np.ndarray:
        if size is not None:
            assert texts == [item.target_caption for item in self.made.items]
            return np.zeros((len(ids), size[1], size[0], 3), np.uint8)
        if editor == self.teacher:
            return np.concatenate(contexts)
        return self.made.target.copy()


def scorings(made: Bench) -> dict[str, list[Scoring]]:
    training = TrainingEdits(made.context[:0], made.target[:0], {})
    outputs = run_editors(made, Copying(made), training, 0)

    def vector(images: np.ndarray) -> np.ndarray:  # plain pixels stand in for features
        return images.reshape(len(images), -1).astype(np.float32)

    return {
        name: [
            Scoring(
                made,
                output,
                outputs["codec"],
                outputs["codec_target"],
                vector(made.context),
                vector(made.target),
                vector(output),
            )
        ]
        for name, output in outputs.items()
    }


def test_editors_are_scored_in_the_registry_order_with_the_right_verdicts() -> None:
    made = bench()
    found = score(made, scorings(made), {"psnr": exactly(25)})
    assert list(found.table) == list(EDITORS)
    rates = {name: found.table[name]["local"]["success"].value for name in found.table}
    assert rates["student"] == rates["oracle"] == 1.0
    assert rates["identity"] == rates["teacher"] == rates["codec"] == 0.0
    assert found.table["student"]["text"]["success"].n == 3
    assert found.table["student"]["text"]["success"].clusters == 3


def test_categories_without_items_are_goals_not_measured() -> None:
    made = bench()
    found = score(made, scorings(made), {"psnr": exactly(29)})
    goals = {goal.name: goal for goal in found.goals}
    assert goals["local"].verdict == "reached" and goals["style"].verdict == "not measured"
    assert goals["style"].as_dict()["value"] is None
    assert found.summary == "4 of 4 goals reached, 5 not measured"
    told = scores_json(made, found, CONFIG)
    assert (told["reached"], told["not_measured"]) == (4, 5)
    assert [row["verdict"] for row in goal_rows(found)].count("not reached") == 0
    text = verdict_markdown(found, Versions(why="none is published"), Path("page"))
    assert text.startswith(f"**{found.summary}**") and text.count("| 0 | not measured |") == 5


@pytest.mark.parametrize(
    ("sense", "goal", "interval", "reached", "certain"),
    [
        ("≥", 0.8, Interval(0.8, 0.7, 0.9, 50, 50, ""), True, False),
        ("≥", 0.8, Interval(0.9, 0.81, 0.95, 50, 50, ""), True, True),
        ("≥", 0.8, Interval(0.79, 0.6, 0.9, 50, 50, ""), False, False),
        ("≥", 0.8, Interval(0.5, 0.4, 0.7, 50, 50, ""), False, True),
        ("≤", 1.3, Interval(1.3, 1.2, 1.4, 50, 50, ""), True, False),
        ("≤", 1.3, Interval(1.1, 1.0, 1.2, 50, 50, ""), True, True),
        ("≤", 1.3, Interval(1.5, 1.4, 1.6, 50, 50, ""), False, True),
    ],
)
def test_goals(sense: str, goal: float, interval: Interval, reached: bool, certain: bool) -> None:
    found = Goal("x", "x", sense, goal, "", interval)
    assert (found.reached, found.certain) == (reached, certain)


def test_a_goal_that_was_not_measured_is_neither_reached_nor_missed() -> None:
    for sense, goal in (("≥", 0.0), ("≤", 9.0)):
        found = Goal("x", "x", sense, goal, "%", cluster_rate(np.zeros(0), ()))
        assert not found.reached and found.verdict == "not measured"


def rows(**values: dict[str, float]) -> dict[str, dict[str, dict[str, Interval]]]:
    return {
        editor: {"style": {metric: exactly(v) for metric, v in by.items()}}
        for editor, by in values.items()
    }


def test_a_metric_that_ranks_doing_nothing_first_is_unfit() -> None:
    table = rows(
        student={"psnr": 20.0, "mae_ratio": 0.4},
        random={"psnr": 9.0, "mae_ratio": 1.4},
        identity={"psnr": 22.0, "mae_ratio": 1.0},
        oracle={"psnr": 100.0, "mae_ratio": 0.0},
    )
    assert [(row["metric"], row["category"]) for row in unfit_metrics(table, ["style"])] == [
        ("psnr", "style")
    ]


def test_the_oracle_does_not_rescue_an_unfit_metric() -> None:
    table = rows(student={"ssim": 0.5}, identity={"ssim": 0.9}, oracle={"ssim": 1.0})
    assert unfit_metrics(table, ["style"])


def test_preservation_must_be_won_by_identity() -> None:
    good = rows(student={"outside_ratio": 1.1}, identity={"outside_ratio": 0.0})
    bad = rows(student={"outside_ratio": 0.1}, identity={"outside_ratio": 0.2})
    assert unfit_metrics(good, ["style"]) == []
    assert unfit_metrics(bad, ["style"])[0]["why"] == "identity is beaten"


def test_random_reference_is_the_same_every_time_and_never_the_item() -> None:
    made = bench()
    assert (other_targets(made, 0) == other_targets(made, 0)).all()
    assert not (other_targets(made, 0) == made.target).all(axis=(1, 2, 3)).any()


def test_no_metric_turns_a_missing_model_into_a_zero() -> None:
    made = bench()
    found = score(made, scorings(made), {"psnr": exactly(25)})
    assert "clip_text" not in found.table["student"]["local"]
    assert set(found.table["student"]["local"]) < set(METRICS)
    assert not any(math.isnan(i.value) for i in found.table["student"]["local"].values() if i.n)
