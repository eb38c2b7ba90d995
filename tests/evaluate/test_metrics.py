from dataclasses import replace

import numpy as np
import pytest

from kontext.evaluate.benches.held_out import Bench, Item
from kontext.evaluate.metrics import METRICS, Scoring
from kontext.evaluate.metrics.base import ClipVectors
from kontext.evaluate.metrics.clip import clip_direction, clip_text
from kontext.evaluate.metrics.fidelity import feature_ratio, mae_ratio, outside_ratio
from kontext.evaluate.metrics.success import (
    choice_ratio,
    detail,
    foreign_detail,
    kept,
    right_choice,
    sharp,
    succeeded,
)
from kontext.evaluate.pixels import change_mask


def item(i: int, category: str = "local") -> Item:
    return Item(f"{i:064x}", category, "r", "a=b", "do it", "after", "before", "s", f"c{i}")


def scoring(
    output_value: int,
    features: tuple[list[float], list[float], list[float]],
    outside_value: int = 0,
    codec_value: int = 2,
) -> Scoring:
    """Black 4x4 context; the target's left half is 200; the output's halves are given."""
    context = np.zeros((1, 4, 4, 3), np.uint8)
    target, output = context.copy(), context.copy()
    target[:, :, :2] = 200
    output[:, :, :2] = output_value
    output[:, :, 2:] = outside_value
    mask = change_mask(context, target, 0.06)
    of_context, of_target, of_output = (np.array([f], np.float32) for f in features)
    return Scoring(
        Bench((item(0),), context, target, mask, 0.06),
        output,
        np.full_like(context, codec_value),
        target,
        of_context,
        of_target,
        of_output,
    )


NEARER = ([1.0, 0.0], [0.0, 1.0], [0.5, 1.0])  # context, target, output
NO_NEARER = ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0])


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        (200, True),
        (135, True),  # 65 from the target, 133 from the codec's context
        (134, False),  # 66 and 132
        (102, False),  # half a ghost
        (0, False),
    ],
)
def test_the_right_choice_is_twice_as_near_as_any_other(value: int, passes: bool) -> None:
    assert right_choice(scoring(value, NEARER)).tolist() == [passes]


def test_another_choice_of_the_bench_is_no_better_than_the_context() -> None:
    one = scoring(180, NEARER)
    rival = one.bench.target.copy()
    rival[:, :, :2] = 160
    assert right_choice(one)[0]
    rivals = replace(one.bench, rivals={0: rival})
    assert not right_choice(replace(one, bench=rivals))[0]  # 20 from both
    assert choice_ratio(replace(one, bench=rivals)).per_item[0] == pytest.approx(1.0)
    assert right_choice(replace(scoring(195, NEARER), bench=rivals))[0]  # 5 and 35


def test_the_round_trip_counts_as_the_picture() -> None:
    """A dark codec: its target is 120, which is nearer to the target than to the context too."""
    one = scoring(120, NEARER)
    made = one.bench.target.copy()
    made[:, :, :2] = 120
    assert not right_choice(one)[0] and right_choice(replace(one, codec_target=made))[0]


def test_identity_fails_and_aces_preservation() -> None:
    identity = scoring(0, NO_NEARER)
    assert not succeeded(identity)[0] and kept(identity)[0]
    assert mae_ratio(identity).per_item[0] == 1.0
    assert outside_ratio(identity).per_item[0] == 0.0


def test_oracle_passes_with_zero_error() -> None:
    oracle = scoring(200, ([1.0, 0.0], [0.0, 1.0], [0.0, 1.0]))
    assert succeeded(oracle)[0] and mae_ratio(oracle).per_item[0] == 0.0
    features = feature_ratio(oracle)
    assert features is not None and features.per_item[0] == 0.0
    assert feature_ratio(replace(oracle, output_features=None)) is None
    assert detail(oracle).per_item[0] == pytest.approx(1.0)
    assert foreign_detail(oracle).per_item[0] == pytest.approx(0.0, abs=1e-9)


def test_a_flat_target_asks_for_no_detail() -> None:
    one = scoring(200, NEARER)
    grey = np.full_like(one.output, 128)
    bench = replace(one.bench, target=grey, mask=np.ones((1, 4, 4), bool))
    flat = replace(one, bench=bench, output=grey, codec_target=grey)
    assert np.isnan(detail(flat).per_item[0]) and sharp(flat)[0] and kept(flat)[0]


def test_outside_ratio_compares_with_the_round_trip() -> None:
    assert outside_ratio(scoring(200, NEARER, outside_value=3)).per_item[0] == pytest.approx(1.5)


def test_outside_ratio_is_nan_where_everything_changes() -> None:
    base = scoring(200, NEARER)
    everywhere = Bench(
        base.bench.items, base.bench.context, base.bench.target, np.ones((1, 4, 4), bool), 0.06
    )
    full = Scoring(
        everywhere, base.output, base.codec, base.codec_target, base.context_features,
        base.target_features, base.output_features,
    )  # fmt: skip
    assert np.isnan(outside_ratio(full).per_item[0])


def with_clip(output: list[float]) -> Scoring:
    base = scoring(200, NEARER)
    row = lambda *v: np.array([v], np.float32)  # noqa: E731
    clip = ClipVectors(row(1, 0), row(0, 1), np.array([output], np.float32), row(1, 0), row(0, 1))
    return Scoring(
        base.bench, base.output, base.codec, base.codec_target, base.context_features,
        base.target_features, base.output_features, clip,
    )  # fmt: skip


def test_clip_scores_by_hand() -> None:
    right, wrong, still = with_clip([0, 1]), with_clip([2, -1]), with_clip([1, 0])
    for made, text, direction in ((right, 1, 1), (wrong, -(5**-0.5), -1), (still, 0, 0)):
        score_text, score_direction = clip_text(made), clip_direction(made)
        assert score_text is not None and score_direction is not None
        assert score_text.per_item[0] == pytest.approx(text)
        assert score_direction.per_item[0] == pytest.approx(direction)


def test_metrics_without_their_model_are_unavailable_never_zero() -> None:
    assert METRICS["clip_text"].measure(scoring(200, NEARER)) is None
    assert METRICS["clip_direction"].measure(scoring(200, NEARER)) is None


def test_every_metric_is_registered_under_its_own_name() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())
    assert {"success", "mae_ratio", "feature_ratio", "outside_ratio", "psnr", "ssim"} <= set(
        METRICS
    )
