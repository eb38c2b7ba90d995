"""Edit success and its two conditions: pixels and features nearer to the target."""

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.metrics.base import Measured, Metric, Scoring, mean
from kontext.evaluate.pixels import cosine_distance, masked_mae

MAX_MAE_RATIO = 0.7


def mae_ratio(scoring: Scoring) -> Measured:
    """Error to the target over the mask, as a share of the untouched context's error there."""
    bench = scoring.bench
    return Measured(
        masked_mae(scoring.output, bench.target, bench.mask),
        masked_mae(bench.context, bench.target, bench.mask),
    )


def feature_ratio(scoring: Scoring) -> Measured:
    """Cosine distance to the target in EfficientNet-Lite0 features, as a share of the context's."""
    target = scoring.target_features
    return Measured(
        cosine_distance(scoring.output_features, target),
        cosine_distance(scoring.context_features, target),
    )


def right_pixels(scoring: Scoring) -> NDArray[np.bool_]:
    """First half of success [N]: error over the mask < 0.7 x the context's."""
    pixels = mae_ratio(scoring)
    return np.asarray(pixels.top < MAX_MAE_RATIO * pixels.bottom)


def right_features(scoring: Scoring) -> NDArray[np.bool_]:
    """Second half of success [N]: features nearer to the target than the context's."""
    features = feature_ratio(scoring)
    return np.asarray(features.top < features.bottom)


def succeeded(scoring: Scoring) -> NDArray[np.bool_]:
    """Both halves [N]."""
    return right_pixels(scoring) & right_features(scoring)


PLACE = 0
METRICS = (
    Metric(
        "success",
        "Edit success",
        "%",
        "share of items whose error to the target over the pixels that should change is below "
        "0.7 × the context's, and whose EfficientNet-Lite0 cosine distance to the target is below "
        "the context's",
        lambda scoring: mean(succeeded(scoring).astype(np.float64)),
    ),
    Metric(
        "right_pixels",
        "Success, first half: pixels",
        "%",
        "share of items whose error over the change mask is below 0.7 × the context's",
        lambda scoring: mean(right_pixels(scoring).astype(np.float64)),
    ),
    Metric(
        "right_features",
        "Success, second half: features",
        "%",
        "share of items whose features lie nearer to the target than the context's do",
        lambda scoring: mean(right_features(scoring).astype(np.float64)),
    ),
    Metric(
        "mae_ratio",
        "Error where it should change",
        "×",
        "mean absolute error to the target over the change mask ÷ the context's (1 = did nothing)",
        mae_ratio,
        better="lower",
    ),
    Metric(
        "feature_ratio",
        "Feature distance",
        "×",
        "cosine distance to the target in pooled EfficientNet-Lite0 features, at the images' own "
        "size, ÷ the context's",
        feature_ratio,
        better="lower",
    ),
)
