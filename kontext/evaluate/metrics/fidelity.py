"""How much of the context survives, and how near the whole picture comes to the target."""

from kontext.evaluate.metrics.base import Measured, Metric, Scoring, mean
from kontext.evaluate.pixels import Values, masked_mae, psnr

MAX_OUTSIDE_RATIO = 1.3


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
    ),
)
