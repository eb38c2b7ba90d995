"""Planted agreement of judges with people is found, and what a judge cannot know is not asked."""

import base64
import math
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kontext.data.pixels import decode_png
from kontext.evaluate.arena.asking import Arena
from kontext.evaluate.arena.calibration import (
    Answers,
    Unit,
    agreement,
    asked,
    calibrated,
    machine_answers,
)
from kontext.evaluate.arena.gold import FIRST, QUESTIONS
from kontext.evaluate.judges.judging import Judges
from kontext.store.votes import Vote
from tests.data.chat_server import Say, completion, pictures, serving
from tests.evaluate.arena import world
from tests.evaluate.arena.world import Person

RNG = np.random.default_rng


def weighted_kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's with linear weights, from the table of all answers and their mirror images."""
    a, b = np.concatenate([a, 1 - a]), np.concatenate([b, 1 - b])
    table = np.array([[np.mean((a == i) & (b == j)) for j in (0, 0.5, 1)] for i in (0, 0.5, 1)])
    weight = np.array([[1 - abs(i - j) for j in (0, 0.5, 1)] for i in (0, 0.5, 1)])
    chance = np.outer(table.sum(1), table.sum(0))
    seen, by_chance = (weight * table).sum(), (weight * chance).sum()
    return float((seen - by_chance) / (1 - by_chance))


def test_kappa_is_cohens_with_linear_weights_whichever_editor_is_first() -> None:
    rng = RNG(0)
    a, b = rng.choice([0, 0.5, 1], (2, 60), p=[0.3, 0.2, 0.5])
    b[:30] = a[:30]
    found = agreement(
        "q", "people", "m", [(x, y, str(i)) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    )
    assert found is not None
    assert found.kappa.value == pytest.approx(weighted_kappa(a, b))
    assert found.agreement.value == pytest.approx((1 - np.abs(a - b)).mean())
    assert found.ties == ((a == 0.5).mean(), (b == 0.5).mean())
    mirrored = agreement(
        "q",
        "people",
        "m",
        [(1 - x, 1 - y, str(i)) for i, (x, y) in enumerate(zip(a, b, strict=True))],
    )
    assert mirrored is not None and mirrored.kappa.value == pytest.approx(found.kappa.value)
    assert agreement("q", "people", "m", []) is None


def test_full_agreement_has_no_interval_of_no_width() -> None:
    found = agreement("q", "people", "m", [(float(i % 2), float(i % 2), str(i)) for i in range(12)])
    assert found is not None and found.kappa.value == found.kappa.high == 1
    assert 0.3 < found.kappa.low < 0.9, "twelve answers do not show it"
    ties = agreement("q", "people", "m", [(0.5, 0.5, "c")] * 3)
    assert ties is not None and math.isnan(ties.kappa.value), "who always tie agree by chance"


@pytest.mark.parametrize(("share", "runs"), [(0.5, 40), (0.8, 40)])
def test_planted_agreement_is_within_the_interval(share: float, runs: int) -> None:
    """Judges who agree with people on a share of 20 components of three answers each."""
    rng, covered = RNG(3), 0
    for _ in range(runs):
        people = rng.integers(0, 2, 60).astype(float)
        same = np.repeat(rng.random(20) < share, 3)  # on a whole component, or not at all
        judge = np.where(same, people, 1 - people)
        rows = [(a, b, str(i // 3)) for i, (a, b) in enumerate(zip(people, judge, strict=True))]
        found = agreement("q", "people", "m", rows)
        assert found is not None
        covered += found.kappa.low <= 2 * share - 1 <= found.kappa.high
    assert covered >= 0.9 * runs


def vote(
    number: int, answer: str, rater: str = "ann", pool: str = "people", gold: bool = False
) -> Vote:
    left, right = ("oracle", "wrong") if gold else ("b", "a")
    return Vote(
        vote_id=f"{number:064x}", evaluation="e", pool=pool, rater=rater, pair_id=f"p{number}",
        category="local", component_id=f"c{number // 2}", left_editor=left, right_editor=right,
        gold=gold, seed=0, instruction=answer, consistency=answer, quality=answer, seconds=1,
        voted_at="2026-01-01T00:00:00Z",
    )  # type: ignore[arg-type]  # fmt: skip


def passed(rater: str, pool: str = "people") -> list[Vote]:
    return [vote(i, "left", rater, pool, gold=True) for i in range(FIRST)]


def answers(by_number: dict[int, float]) -> Answers:
    units: dict[Unit, float] = {(f"p{n}", ("a", "b")): s for n, s in by_number.items()}
    return dict.fromkeys(QUESTIONS, units)


def test_people_are_the_ceiling_and_judges_stand_beside_them_and_each_other() -> None:
    """Left is editor b. Ann and Ben differ on one of four; Eve failed the gold items."""
    votes = [vote(i, "left", rater) for i, rater in product(range(4), ("ann", "ben"))]
    votes[1] = vote(0, "right", "ben")
    votes += [*passed("ann"), *passed("ben"), *(vote(i, "right", "eve") for i in range(9))]
    judges = {"good": answers({0: 0, 1: 0, 2: 0, 3: 0, 7: 1}), "tied": answers({0: 0.5, 1: 1})}
    found = {
        (one.first, one.second): one
        for one in calibrated(votes, judges)
        if one.question == "quality"
    }
    assert list(found) == [
        ("people", "people"), ("people", "good"), ("people", "tied"), ("good", "tied"),
    ]  # fmt: skip
    ceiling, good = found["people", "people"], found["people", "good"]
    assert (ceiling.answers, ceiling.agreement.value) == (4, 0.75)
    assert (good.answers, good.pairs, good.agreement.value) == (8, 4, 7 / 8)
    assert good.kappa.value == 0.75 and good.agreement.clusters == 2
    tied = found["people", "tied"]
    assert (tied.answers, tied.agreement.value, tied.ties) == (4, 0.25, (0, 0.5))
    between = found["good", "tied"]
    assert (between.answers, between.agreement.value) == (2, 0.25)
    assert all(one.as_dict()["kappa"]["method"] for one in found.values())


def test_models_that_voted_themselves_are_judges_too() -> None:
    votes = [vote(i, "left", "ann") for i in range(4)] + passed("ann")
    votes += [vote(i, ("left", "right")[i % 2], "vlm-a", "vlm") for i in range(4)]
    found = machine_answers(votes)
    assert list(found) == ["vlm-a"]
    (one,) = [c for c in calibrated(votes, found) if c.question == "instruction"]
    assert (one.second, one.agreement.value, one.kappa.value) == ("vlm-a", 0.5, 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arena")
    world.home(folder, ("a", "b"), items=8)
    return folder


@pytest.fixture(scope="module")
def voted(made: Path) -> Iterator[list[Vote]]:
    with closing(world.book(made)) as book:
        Person("ann", care=1).vote(Arena(world.contest(made), book, b"k" * 32), 30)
        yield list(book.votes)


def worth(address: str) -> int:
    return int(decode_png(base64.b64decode(address.rpartition(",")[2]))[0, 0, 0])


def test_judges_are_asked_about_the_pairs_of_people_in_both_orders(
    made: Path, voted: list[Vote], tmp_path: Path
) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        _, first, second = map(worth, pictures(body))
        best = "A" if first > second else "B"
        said = {"sees": best, "habit": "A", "prose": ""}[body["model"]]
        return completion({"reasons": "", "better": said} if said else "I like both.")

    units = {(v.pair_id, v.editors) for v in voted if not v.gold}
    with serving(speak) as server:
        judges = Judges(("sees", "habit", "prose"), server.url)
        found, lost = asked(world.contest(made), voted, judges, tmp_path)
    assert {b["model"] for b in server.bodies} == {"sees", "habit", "prose"}
    assert sum(b["model"] == "sees" for b in server.bodies) == 2 * len(units)
    assert lost == {"sees": 0, "habit": 0, "prose": len(units)}
    told = {(one.first, one.second): one for one in calibrated(voted, found)}
    assert told["people", "sees"].agreement.value == 1
    habit = told["people", "habit"]
    assert habit.agreement.value == 0.5 and habit.ties[1] == 1, "its place decides: ties"
    assert told["sees", "habit"].answers == len(units) and ("people", "prose") not in told
