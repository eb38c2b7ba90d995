"""How much of the context survives, and how near the whole picture comes to the target."""

from kontext.evaluate.metrics.base import Card, Measured, Metric, Scoring, mean
from kontext.evaluate.pixels import Values, cosine_distance, masked_mae, psnr

MAX_OUTSIDE_RATIO = 1.3


def mae_ratio(scoring: Scoring) -> Measured:
    """Error to the target over the mask, as a share of the untouched context's error there."""
    bench = scoring.bench
    return Measured(
        masked_mae(scoring.output, bench.target, bench.mask),
        masked_mae(bench.context, bench.target, bench.mask),
    )


def feature_ratio(scoring: Scoring) -> Measured | None:
    """Cosine distance to the target in EfficientNet-Lite0 features, as a share of the context's."""
    target = scoring.target_features
    if scoring.output_features is None:
        return None
    return Measured(
        cosine_distance(scoring.output_features, target),
        cosine_distance(scoring.context_features, target),
    )


def outside_ratio(scoring: Scoring) -> Measured:
    """Error to the context outside the mask ÷ that of the autoencoder's round trip of the context.

    nan for items whose whole image should change.
    """
    bench = scoring.bench
    outside = ~bench.mask
    return Measured(
        masked_mae(scoring.output, bench.context, outside),
        masked_mae(scoring.codec, bench.context, outside),
    )


def ssim_to_target(scoring: Scoring) -> Values:
    """Structural similarity of output and target per item, in -1..1."""
    from kontext.data.quality.pixels import ssim

    return ssim(scoring.output, scoring.bench.target)


PLACE = 1
METRICS = (
    Metric(
        "mae_ratio",
        "Error where it should change",
        "×",
        "mean absolute error to the target over the change mask ÷ the context's (1 = did nothing)",
        mae_ratio,
        better="lower",
    ),
    Metric(
        "outside_ratio",
        "Error where it should not change",
        "×",
        "mean absolute error to the context outside the change mask ÷ the autoencoder round "
        "trip's (1 = nothing lost but the codec's own error)",
        outside_ratio,
        better="lower",
        judges="preservation",
    ),
    Metric(
        "feature_ratio",
        "Feature distance",
        "×",
        "cosine distance to the target in pooled EfficientNet-Lite0 features, at the images' own "
        "size, ÷ the context's",
        feature_ratio,
        better="lower",
        card=Card(
            "kontext.models.features.efficientnet",
            "EfficientNet-Lite0, ImageNet, of its package",
            range="(255 x - 127) / 128",
            dtype="float32",
        ),
    ),
    Metric(
        "psnr",
        "PSNR to target",
        "dB",
        "peak signal-to-noise ratio to the target over the whole image, RGB, peak 255",
        lambda scoring: mean(psnr(scoring.output, scoring.bench.target)),
    ),
    Metric(
        "ssim",
        "SSIM to target",
        "",
        "structural similarity to the target over the whole image",
        lambda scoring: mean(ssim_to_target(scoring)),
        card=Card(
            "kontext.data.quality.pixels.ssim",
            crop="windows of 11 pixels that fit, sigma 1.5",
            dtype="float32",
        ),
    ),
)
