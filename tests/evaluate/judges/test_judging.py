"""Judges behind a real HTTP server, which answers well, badly or in prose."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kontext.data.caption.base import Desk
from kontext.data.pixels import encode_png
from kontext.errors import BenchError
from kontext.evaluate.judges.base import Shown
from kontext.evaluate.judges.judging import Judges, compare_all, judge_all, rubric_named
from kontext.evaluate.judges.pairwise import Duel
from tests.data.chat_server import Say, completion, pictures, serving
from tests.evaluate.judges.scripted import kind_of, prose, scripted

SHOWN = [Shown(str(n), f"edit {n}", f"made{n}", f"source{n}", "Grade it.") for n in range(3)]


def flat(value: int) -> np.ndarray:
    return np.full((8, 8, 3), value, np.uint8)


def desk(home: Path) -> Desk:
    return Desk(lambda pixels: encode_png(flat(sum(pixels.encode()) % 200)), home)


def judges(url: str, *models: str, **more: Any) -> Judges:
    return Judges(models or ("m",), url, tries=2, first_wait=0.001, **more)


@pytest.mark.parametrize(("name", "questions"), [("viescore", 2), ("drawn", 2), ("imgedit", 1)])
def test_every_rubric_scores_and_asks_nothing_twice(
    tmp_path: Path, name: str, questions: int
) -> None:
    rubric = rubric_named(name)
    with serving(scripted) as server:
        found = judge_all(rubric, SHOWN, judges(server.url), desk(tmp_path))
        assert len(server.bodies) == 3 * questions
        again = judge_all(rubric, SHOWN, judges(server.url), desk(tmp_path))
        assert again.rows == found.rows and len(server.bodies) == 3 * questions
    for row in found.rows:
        assert row["status"] == "ok" and set(rubric.scores) <= set(row)
        assert rubric.least <= row[rubric.main] <= rubric.most
    (replies,) = found.replies
    assert replies.num_rows == 3 * questions and len(found.wordings) == questions
    assert {body["temperature"] for body in server.bodies} == {0}
    assert all(body["response_format"]["json_schema"]["strict"] for body in server.bodies)


def test_an_unknown_rubric_is_named() -> None:
    with pytest.raises(BenchError, match="did you mean 'viescore'"):
        rubric_named("viescores")


def test_prose_is_missing_never_a_number(tmp_path: Path) -> None:
    rubric = rubric_named("viescore")

    def speak(body: dict[str, Any], times: int) -> Say:
        return prose(body, times) if "edit 1" in str(body["messages"]) else scripted(body, times)

    with serving(speak) as server:
        found = judge_all(rubric, SHOWN, judges(server.url), desk(tmp_path))
    statuses = [row["status"] for row in found.rows]
    assert statuses == ["ok", "malformed", "ok"]
    assert found.rows[1]["o"] is None and "no JSON object" in found.rows[1]["problem"]


@pytest.mark.parametrize(
    "said",
    [
        {"reasons": "a", "success": 11, "restraint": 3},
        {"reasons": "a", "success": "7", "restraint": 3},
        {"reasons": "a", "success": 7.5, "restraint": 3},
        {"reasons": "a", "success": 7},
        {"reasons": "a", "success": 7, "restraint": 3, "more": 1},
    ],
)
def test_only_whole_numbers_in_range_are_scores(tmp_path: Path, said: dict[str, Any]) -> None:
    def speak(body: dict[str, Any], times: int) -> Say:
        edit = kind_of(body) == "viescore_edit"
        return completion(said) if edit else scripted(body, times)

    with serving(speak) as server:
        found = judge_all(rubric_named("viescore"), SHOWN[:1], judges(server.url), desk(tmp_path))
    assert [row["status"] for row in found.rows] == ["malformed"]


def test_every_judge_is_asked_in_every_pass(tmp_path: Path) -> None:
    with serving(scripted) as server:
        asked = judges(server.url, "m", "w", passes=3)
        found = judge_all(rubric_named("imgedit"), SHOWN, asked, desk(tmp_path))
    assert len(server.bodies) == 2 * 3 * 3
    assert {(body["model"], body["seed"]) for body in server.bodies} == {
        (model, seed) for model in ("m", "w") for seed in range(3)
    }
    assert [(row["judge"], row["pass"]) for row in found.rows[::3]] == [
        ("m", 0),
        ("m", 1),
        ("m", 2),
        ("w", 0),
        ("w", 1),
        ("w", 2),
    ]


def test_a_budget_holds_over_judges_and_passes(tmp_path: Path) -> None:
    with serving(scripted) as server:
        asked = judges(server.url, "m", "w", passes=2, budget_requests=5)
        found = judge_all(rubric_named("imgedit"), SHOWN, asked, desk(tmp_path))
    assert len(server.bodies) == 5
    assert [row["status"] for row in found.rows].count("budget") == 7


def test_pairs_are_asked_in_both_orders(tmp_path: Path) -> None:
    duels = [Duel(str(n), "edit it", f"source{n}", f"own{n}", f"other{n}") for n in range(4)]
    png = {
        f"{who}{n}": encode_png(flat(40 * n + 9 * i))
        for n in range(4)
        for i, who in enumerate(("source", "own", "other"))
    }
    better = {0: "own0", 1: "other1", 2: "", 3: "first"}

    def speak(body: dict[str, Any], times: int) -> Say:
        datas = [base64.b64decode(url.partition(",")[2]) for url in pictures(body)]
        names = [next(p for p, data in png.items() if data == own) for own in datas]
        wanted = better[int(names[0][-1])]
        said = "tie" if not wanted else "A" if wanted in ("first", names[1]) else "B"
        return completion({"reasons": "", "better": said})

    with serving(speak) as server:
        asked = judges(server.url)
        found = compare_all(duels, asked, Desk(png.__getitem__, tmp_path))
        assert len(server.bodies) == 8
    assert [row["win"] for row in found.rows] == [1, 0, 0.5, 0.5]
    assert [row["contradicted"] for row in found.rows] == [0, 0, 0, 1]


def test_judges_need_model_and_endpoint() -> None:
    for models, url in (((), "http://x/v1"), (("m",), ""), (("m", "m"), "http://x/v1")):
        with pytest.raises(BenchError):
            Judges(models, url)
