"""What a metric is: a number per item, how items add up, and which way is better."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.pixels import Images, Values


@dataclass(frozen=True)
class ClipVectors:
    """CLIP vectors [N, D] of everything a metric needs, for one editor's outputs."""

    context: NDArray[np.float32]
    target: NDArray[np.float32]
    output: NDArray[np.float32]
    context_text: NDArray[np.float32]
    target_text: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scoring:
    """One editor's outputs with everything they are compared to. All arrays share the item axis.

    Two are equal only if they are one, so that what is measured on one can be cached.
    """

    bench: Bench
    output: Images
    codec: Images  # autoencoder round trip of the context
    codec_target: Images  # and of the target
    context_features: NDArray[np.float32]  # [N, 1280], EfficientNet-Lite0, pooled
    target_features: NDArray[np.float32]
    output_features: NDArray[np.float32] | None
    clip: ClipVectors | None = None


@dataclass(frozen=True)
class Measured:
    """Numerator and denominator per item [N]: the category's figure is sum / sum.

    A plain mean has a denominator of ones. nan marks an item the metric does not apply to.
    """

    top: Values
    bottom: Values

    @property
    def per_item(self) -> Values:
        """top / bottom, nan where the denominator is zero or either is nan."""
        usable = np.isfinite(self.bottom) & (self.bottom > 0)
        out = np.full(len(self.top), np.nan)
        np.divide(self.top, self.bottom, out=out, where=usable)
        return out


def mean(values: Values) -> Measured:
    """A metric whose category figure is the mean over items."""
    return Measured(values.astype(np.float64), np.ones(len(values)))


@dataclass(frozen=True)
class Card:
    """What it takes to compare a number with one that was measured elsewhere."""

    version: str  # of what measures: package and version
    weights: str = "none"  # name and digest
    resize: str = "none"
    crop: str = "none"
    range: str = "0 to 1"
    dtype: str = "float64"

    @property
    def said(self) -> str:
        """One line."""
        words = asdict(self)
        return "; ".join([words.pop("version"), *(f"{k} {v}" for k, v in words.items())])


@dataclass(frozen=True)
class Metric:
    """One registered metric.

    `measure` returns None where it does not apply to an editor, and raises MetricUnavailable where
    it cannot be measured here; the report says why. It is never a zero.
    """

    name: str
    title: str
    unit: str  # "", "%", "dB", "x"
    definition: str
    measure: Callable[[Scoring], Measured | None]
    better: Literal["higher", "lower"] = "higher"
    # doing nothing must score worst in "edit", best in "preservation"
    judges: Literal["edit", "preservation"] = "edit"
    card: Card = Card("kontext's own code")
