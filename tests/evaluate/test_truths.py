from dataclasses import replace

import numpy as np
import pytest

from kontext.evaluate.false_editors import FALSE_EDITORS, run_false_editors
from kontext.evaluate.metrics import METRICS, Scoring
from kontext.evaluate.metrics.base import mean
from kontext.evaluate.metrics.success import kept, right_choice, sharp, succeeded
from kontext.evaluate.pixels import Images
from kontext.evaluate.references import EDITORS
from kontext.evaluate.statistics import cluster_rate
from kontext.evaluate.truths import best_false, known_truths, truths_line
from tests.evaluate.drawn import SHAPES, codec, drawn


def scored(output: Images) -> Scoring:
    bench, _ = drawn()
    none = np.zeros((len(bench), 2), np.float32)
    return Scoring(bench, output, codec(bench.context), codec(bench.target), none, none, none)


@pytest.fixture(scope="module")
def false_outputs() -> dict[str, Images]:
    return run_false_editors(*drawn())


def rates(output: Images) -> dict[str, float]:
    passed = succeeded(scored(output))
    relation = np.array([item.relation for item in drawn()[0].items])
    shape = np.array([item.category != "removal" for item in drawn()[0].items])
    return {name: float(passed[shape & (relation == name)].mean()) for name in SHAPES}


def test_the_bench_has_what_is_asked_of_it() -> None:
    bench, training = drawn()
    assert all(sum(item.relation == name for item in bench.items) >= 8 for name in SHAPES)
    assert len(bench.rivals) > len(bench) / 2
    held = {image.tobytes() for image in bench.target}
    assert not held & {image.tobytes() for image in training.target}


def test_the_target_and_its_round_trip_pass() -> None:
    bench, _ = drawn()
    assert min(rates(bench.target).values()) == 1
    assert min(rates(codec(bench.target)).values()) >= 0.95


def test_doing_nothing_fails() -> None:
    bench, _ = drawn()
    assert max(rates(bench.context).values()) == 0
    assert max(rates(codec(bench.context)).values()) == 0


@pytest.mark.parametrize("name", FALSE_EDITORS)
def test_wrong_edits_fail_in_every_relation_of_shape(
    name: str, false_outputs: dict[str, Images]
) -> None:
    assert max(rates(false_outputs[name]).values()) <= 0.2


def test_a_fill_takes_things_away_so_removals_stand_apart(false_outputs: dict[str, Images]) -> None:
    removed = np.array([item.category == "removal" for item in drawn()[0].items])
    assert removed.sum() >= 8
    assert succeeded(scored(false_outputs["filled"]))[removed].mean() > 0.2


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("ghost_51", right_choice),
        ("half", right_choice),
        ("other_choice", right_choice),
        ("stray", right_choice),
        ("blurred", sharp),
        ("filled", sharp),
        ("nearest", kept),
        ("stray", kept),
    ],
)
def test_each_condition_refuses_what_it_is_there_for(
    name: str, condition: object, false_outputs: dict[str, Images]
) -> None:
    assert callable(condition)
    assert condition(scored(false_outputs[name])).mean() <= 0.2


def test_a_stray_patch_fails_where_the_whole_picture_changes() -> None:
    bench, training = drawn()
    grey = bench.target.mean(axis=3, keepdims=True).astype(np.uint8).repeat(3, axis=3)
    whole = replace(bench, context=grey, mask=np.ones_like(bench.mask), rivals={})
    none = np.zeros((len(bench), 2), np.float32)
    codecs = codec(whole.context), codec(whole.target)

    def passed(output: Images) -> float:
        return float(succeeded(Scoring(whole, output, *codecs, none, none, none)).mean())

    assert passed(codec(whole.target)) >= 0.95
    assert passed(run_false_editors(whole, training)["stray"]) <= 0.2


def test_an_edit_as_good_as_the_codec_with_a_little_noise_passes() -> None:
    rng = np.random.default_rng(0)
    made = codec(drawn()[0].target).astype(int)
    noisy = np.uint8(np.clip(made + rng.integers(-3, 4, made.shape), 0, 255))
    assert succeeded(scored(noisy)).mean() > 0.9


def test_loud_noise_fails() -> None:
    rng = np.random.default_rng(0)
    made = codec(drawn()[0].target).astype(int)
    noisy = np.uint8(np.clip(made + rng.integers(-60, 61, made.shape), 0, 255))
    assert not succeeded(scored(noisy)).any()


def test_without_rivals_only_the_context_is_another_choice() -> None:
    bench, _ = drawn()
    wrong = run_false_editors(*drawn())["other_choice"]
    alone = replace(scored(wrong), bench=replace(bench, rivals={}))
    assert right_choice(alone).mean() > right_choice(scored(wrong)).mean() == 0


def test_a_picture_twice_the_size_is_judged_alike(false_outputs: dict[str, Images]) -> None:
    def twice(images: np.ndarray) -> np.ndarray:
        return images.repeat(2, axis=1).repeat(2, axis=2)

    bench, _ = drawn()
    large = replace(
        bench,
        context=twice(bench.context),
        target=twice(bench.target),
        mask=twice(bench.mask),
        rivals={i: twice(found) for i, found in bench.rivals.items()},
    )
    for output in (codec(bench.target), false_outputs["blurred"], false_outputs["stray"]):
        small = scored(output)
        big = replace(
            small,
            bench=large,
            output=twice(output),
            codec=twice(small.codec),
            codec_target=twice(small.codec_target),
        )
        assert np.mean(succeeded(big) == succeeded(small)) > 0.95


def test_truths_name_what_does_not_hold() -> None:
    bench, _ = drawn()
    outputs = {"codec_target": codec(bench.target), "identity": bench.context}
    per_item = {
        name: {"success": METRICS["success"].measure(scored(output))}
        for name, output in outputs.items()
    }
    truths = known_truths(bench, per_item)
    places = [("character", "expression"), ("local", "glasses"), ("removal", "glasses")]
    assert list(truths) == [*places, ("text", "text")]
    assert all(truth.holds for row in truths.values() for truth in row)
    assert truths_line(truths) == "success judges all 8 known truths rightly"
    per_item["identity"] = {"success": mean(np.ones(len(bench)))}
    truths = known_truths(bench, per_item)
    assert truths_line(truths).startswith("success judges 4 of 8 known truths rightly")
    assert truths_line(truths).endswith("for: expression, glasses, glasses (removal), text")
    assert truths["text", "text"][1].as_dict()["holds"] is False


def test_every_false_editor_is_scored_and_must_fail() -> None:
    assert set(FALSE_EDITORS) < {name for name, spec in EDITORS.items() if spec.must == "fail"}


def test_the_best_wrong_edit_is_the_one_that_passes_most() -> None:
    table = {
        name: {"text": {"success": cluster_rate(np.arange(10) < passed, list("abcdefghij"))}}
        for name, passed in (("student", 9), ("identity", 0), ("palette", 3), ("oracle", 10))
    }
    assert best_false(table, "text") == "palette"
    assert best_false({"student": table["student"]}, "text") == ""
