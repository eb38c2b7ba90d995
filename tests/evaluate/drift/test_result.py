"""Planted editors are found for what they are."""

import json
from functools import cache
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc
import pytest

from kontext.evaluate.drift.chains import (
    JPEG_QUALITY,
    alone,
    chained,
    known,
    streams,
    through_jpeg,
    unchanged_kept,
)
from kontext.evaluate.drift.result import Drift, HalfLife, scored
from kontext.evaluate.drift.scripts import TURNS
from kontext.evaluate.pixels import as_images, grown
from kontext.evaluate.statistics import Interval
from tests.evaluate.drift.world import COMPONENTS, THRESHOLD, codec, features, scripts

ADDED = 3  # levels of 255 that the planted editor adds at every turn


def _oracle(turn: int) -> list[np.ndarray]:
    return known(scripts(), turn + 1)


def _added(turn: int) -> list[np.ndarray]:
    return [np.uint8(one + ADDED * (turn + 1)) for one in _oracle(turn)]


def _cannot_undo(turn: int) -> list[np.ndarray]:
    undo = [script.turns[turn].kind == "undo" for script in scripts().scripts]
    sides = zip(known(scripts(), turn), _oracle(turn), undo, strict=True)
    return [before if stays else after for before, after, stays in sides]


@cache
def measured() -> Drift:
    own = scripts()
    outputs = {
        "identity": chained(own, lambda pictures, turn: pictures),
        "codec": chained(own, lambda pictures, turn: [codec(one[None])[0] for one in pictures]),
        "kept_latents": [_oracle(turn) for turn in range(TURNS)],
        "reopened": [_added(turn) for turn in range(TURNS)],
        "cannot_undo": [_cannot_undo(turn) for turn in range(TURNS)],
        "independent": alone(own, lambda pictures, turn: pictures),
    }
    return scored(own, outputs, codec, features, THRESHOLD)


def _values(editor: str, name: str) -> list[float]:
    return [one.value for one in measured().curve(editor, name)]


def test_doing_nothing_never_drifts_and_edits_nothing() -> None:
    for name in ("error", "colour", "saturation"):
        assert _values("identity", name) == [0.0] * TURNS
    assert _values("identity", "detail") == [1.0] * TURNS
    assert measured().half_life("identity", "rest").turn is None
    assert measured().half_life("identity", "holds").turn == 1
    assert measured().rate("identity", "edit").value < 0.1
    assert measured().rate("independent", "keep").value == 1.0  # the known picture as it was


def test_the_known_pictures_hold_to_the_end() -> None:
    for name in ("success", "holds", "rest"):
        assert _values("kept_latents", name) == [1.0] * TURNS
    assert _values("kept_latents", "features") == [0.0] * TURNS
    assert measured().half_life("kept_latents", "holds").turn is None


def test_the_codec_drifts_as_its_round_trips() -> None:
    error = _values("codec", "error")
    assert error[0] == 1.0 and error == sorted(error)
    once, last = 0.0, 0.0
    for script in scripts().scripts:
        pictures = [scripts().pictures[row].astype(int) for row in script.rows]
        changed = sum(np.abs(b - a).max(-1) > 255 * THRESHOLD for a, b in pairwise(pictures)) > 0
        region = ~grown(changed[None], 2)[0]
        now = pictures[0].astype(np.uint8)[None]
        trips = [now := codec(now) for _ in range(TURNS)]
        far = [np.abs(trip[0] - pictures[0])[region].mean() for trip in (trips[0], trips[-1])]
        once, last = once + far[0], last + far[1]
    assert error[-1] == pytest.approx(last / once)
    assert measured().rate("codec", "edit").value == 0.0


def test_a_fixed_error_at_every_turn_is_found_with_its_half_life() -> None:
    first = as_images(known(scripts(), 0))
    off = [np.abs(codec(one[None])[0].astype(float) - one).mean() for one in first]
    # the nearer of the picture and its round trip, which is 2 levels brighter, is the truth
    fails = np.mean([[ADDED * (t + 1) - 2 > 1.3 * one + 1 for t in range(TURNS)] for one in off], 0)
    expected = int(np.argmax(fails >= 0.5)) + 1
    life = measured().half_life("reopened", "rest")
    assert life.turn is not None and abs(life.turn - expected) <= 1 and 1 < life.turn < TURNS
    assert life.low is not None and life.low <= life.turn
    assert _values("reopened", "colour") == pytest.approx([ADDED * (t + 1) for t in range(TURNS)])
    assert _values("reopened", "detail") == pytest.approx([1.0] * TURNS)
    gain = measured().gain("kept_latents", "colour")
    assert gain.value == pytest.approx(-ADDED * TURNS) and gain.high < 0
    assert measured().gain("kept_latents", "success").low > 0


def test_an_editor_that_cannot_take_back_is_found() -> None:
    rates = {kind: measured().rate("cannot_undo", kind) for kind in ("edit", "keep", "undo")}
    assert {kind: rate.value for kind, rate in rates.items()} == {"edit": 1, "keep": 1, "undo": 0}
    assert rates["undo"].n == COMPONENTS and rates["undo"].high < rates["edit"].low
    assert _values("cannot_undo", "holds")[-1] == 0.0


def test_the_result_is_the_same_again_and_can_be_written() -> None:
    some = {"reopened": measured().outputs["reopened"]}
    again = scored(scripts(), some, codec, features, THRESHOLD)
    own = measured().table()
    assert again.table().equals(own.filter(pc.equal(own["editor"], "reopened")))
    said = json.loads(json.dumps(measured().as_dict(), allow_nan=False))
    assert said["scripts"] == said["clusters"] == COMPONENTS and said["turns"] == TURNS
    assert said["editors"]["identity"]["half_life"]["rest"]["text"].startswith(f"> {TURNS}")
    assert said["difference_to_reopened"]["kept_latents"]["colour"]["value"] < 0
    rows = measured().table().to_pylist()
    assert len(rows) == COMPONENTS * TURNS * len(measured().measured)
    one = next(row for row in rows if row["editor"] == "cannot_undo" and row["kind"] == "undo")
    assert one["success"] == 0.0 and one["instruction"].startswith("turn ")


def test_what_has_no_script_is_said() -> None:
    none = Drift(type(scripts())(why="there is nothing"))
    assert none.line == "no edits in several turns: there is nothing"
    assert none.as_dict()["editors"] == {}


def test_half_lives_are_censored_where_half_of_the_scripts_hold_to_the_end() -> None:
    def curve(*shares: tuple[float, float, float]) -> list[Interval]:
        return [Interval(*one, 10, 10, "") for one in shares]

    assert str(HalfLife.of(curve((0.9, 0.7, 1), (0.5, 0.3, 0.7), (0.2, 0.1, 0.4)))) == "2 (2 to 3)"
    assert str(HalfLife.of(curve((0.9, 0.7, 1), (0.6, 0.4, 0.8)))) == f"> {TURNS} (2 to > {TURNS})"
    assert str(HalfLife.of([Interval(float("nan"), 0, 1, 0, 0, "")])) == "not measured"


def test_jpeg_loses_a_little_and_a_threshold_keeps_what_is_unchanged() -> None:
    one = known(scripts(), 0)[0]
    lost = np.abs(through_jpeg(one).astype(int) - one).mean()
    assert JPEG_QUALITY == 95 and 0 < lost < 10
    after = one.copy()
    after[2:10, 2:10] = 255 - after[2:10, 2:10]
    noisy = np.uint8(after + 3)
    kept = unchanged_kept(one, noisy)
    assert np.array_equal(kept[16:], one[16:]) and np.array_equal(kept[4:8, 4:8], noisy[4:8, 4:8])


def test_every_turn_of_every_script_has_its_own_noise() -> None:
    assert len({s for turn in range(TURNS) for s in streams(scripts(), turn)}) == TURNS * COMPONENTS
