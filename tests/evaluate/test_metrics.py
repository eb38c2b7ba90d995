import numpy as np
import pytest

from kontext.evaluate.benches.held_out import Bench, Item
from kontext.evaluate.metrics import METRICS, Scoring
from kontext.evaluate.metrics.base import ClipVectors
from kontext.evaluate.metrics.clip import clip_direction, clip_text
from kontext.evaluate.metrics.fidelity import outside_ratio
from kontext.evaluate.metrics.success import (
    mae_ratio,
    right_features,
    right_pixels,
    succeeded,
)
from kontext.evaluate.pixels import change_mask


def item(i: int, category: str = "local") -> Item:
    return Item(f"{i:064x}", category, "r", "do it", "after", "before", "s", f"c{i}")


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
        of_context,
        of_target,
        of_output,
    )


NEARER = ([1.0, 0.0], [0.0, 1.0], [0.5, 1.0])  # context, target, output
NO_NEARER = ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0])


@pytest.mark.parametrize(
    ("value", "features", "passes"),
    [
        (61, NEARER, True),  # |61 - 200| / 200 = 0.695 < 0.7
        (60, NEARER, False),  # exactly 0.7 is not below 0.7
        (59, NEARER, False),
        (200, NEARER, True),
        (200, NO_NEARER, False),  # right pixels, but the features did not come nearer
        (0, NEARER, False),
    ],
)
def test_success_needs_both_halves(
    value: int, features: tuple[list[float], list[float], list[float]], passes: bool
) -> None:
    assert succeeded(scoring(value, features)).tolist() == [passes]


def test_the_halves_are_told_apart() -> None:
    blurred = scoring(200, NO_NEARER)
    assert right_pixels(blurred)[0] and not right_features(blurred)[0]
    wrong = scoring(0, NEARER)
    assert not right_pixels(wrong)[0] and right_features(wrong)[0]


def test_identity_fails_and_aces_preservation() -> None:
    identity = scoring(0, NO_NEARER)
    assert not succeeded(identity)[0]
    assert mae_ratio(identity).per_item[0] == 1.0
    assert outside_ratio(identity).per_item[0] == 0.0


def test_oracle_passes_with_zero_error() -> None:
    oracle = scoring(200, ([1.0, 0.0], [0.0, 1.0], [0.0, 1.0]))
    assert succeeded(oracle)[0] and mae_ratio(oracle).per_item[0] == 0.0


def test_blur_that_halves_the_error_does_not_pass_on_features() -> None:
    assert not succeeded(scoring(120, ([1.0, 0.2], [1.0, 0.3], [0.0, 1.0])))[0]


def test_outside_ratio_compares_with_the_round_trip() -> None:
    assert outside_ratio(scoring(200, NEARER, outside_value=3)).per_item[0] == pytest.approx(1.5)


def test_outside_ratio_is_nan_where_everything_changes() -> None:
    base = scoring(200, NEARER)
    everywhere = Bench(
        base.bench.items, base.bench.context, base.bench.target, np.ones((1, 4, 4), bool), 0.06
    )
    full = Scoring(
        everywhere, base.output, base.codec, base.context_features, base.target_features,
        base.output_features,
    )  # fmt: skip
    assert np.isnan(outside_ratio(full).per_item[0])


def with_clip(output: list[float]) -> Scoring:
    base = scoring(200, NEARER)
    row = lambda *v: np.array([v], np.float32)  # noqa: E731
    clip = ClipVectors(row(1, 0), row(0, 1), np.array([output], np.float32), row(1, 0), row(0, 1))
    return Scoring(
        base.bench, base.output, base.codec, base.context_features, base.target_features,
        base.output_features, clip,
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
