"""Nights of the nightly evaluation, simulated: unchanged ones, and ones after a fall.

Every night has items, subjects and a published evaluation of its own. The night's outcomes of the
same items differ from the published ones by noise; both are as likely to have been the published
ones, so that nothing has changed. What judges them is what `kontext nightly` calls.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.planted import related, sizes
from kontext.evaluate.categories import SCORED_CATEGORIES
from kontext.evaluate.versions import MODELS, compare_again

RATES = (0.58, 0.80, 0.57, 0.42, 0.40, 0.95, 0.90)  # by category, near those that the demo reached
ITEMS, CLUSTERS, CORRELATION = 60, (8, 13, 40), 0.3
FALL = 0.15
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Night:
    """A kind of night: the share of outcomes that noise changes, and which categories fell.

    `most` or `least` is the goal of the share of nights that raise the alarm.
    """

    name: str
    noise: float
    fell: tuple[str, ...] = ()
    most: float | None = None
    least: float | None = None


NIGHTS = (
    Night("unchanged, the same outcomes", 0.0, most=0.05),
    Night("unchanged, 5 % of outcomes changed by noise", 0.05, most=0.05),
    Night("unchanged, 15 % of outcomes changed by noise", 0.15, most=0.05),
    Night("15 points lost everywhere, 15 % noise", 0.15, SCORED_CATEGORIES, least=0.8),
    Night("15 points lost everywhere, no noise", 0.0, SCORED_CATEGORIES, least=0.8),
    Night("15 points lost in one category, no noise", 0.0, ("local",), least=0.8),
    Night("15 points lost in one category, 5 % noise", 0.05, ("local",), least=0.8),
    Night("15 points lost in one category, 15 % noise", 0.15, ("local",), least=0.8),
)


def alarms(night: Night, nights: int, seed: int, clusters: tuple[int, ...] = CLUSTERS) -> float:
    """The share of nights that raise the alarm; categories have these numbers of clusters."""
    number = [each.name for each in NIGHTS].index(night.name)
    rng = np.random.default_rng((2, seed, number))
    return float(
        np.mean([bool(compare_again(*one(night, rng, clusters)).fell) for _ in range(nights)])
    )


def one(
    night: Night, rng: np.random.Generator, clusters: tuple[int, ...] = CLUSTERS
) -> tuple[pa.Table, pa.Table]:
    """A published evaluation and a night's, as tables of items."""
    before: list[dict[str, object]] = []
    after: list[dict[str, object]] = []
    for number, (category, rate) in enumerate(zip(SCORED_CATEGORIES, RATES, strict=True)):
        of = sizes(clusters[number % len(clusters)], rng, ITEMS)
        fell = FALL if category in night.fell else 0.0
        for model in MODELS:
            published = related(rate, of, CORRELATION, rng) > 0
            again = lost(noisy(published, night.noise, rng), fell, rng)
            for side, outcomes in ((before, published), (after, again)):
                side += [
                    {
                        "pair_id": f"{category}-{i}", "category": category, "editor": model,
                        "cluster": f"{category}-{of[i]}", "success": bool(outcomes[i]),
                    }
                    for i in range(ITEMS)
                ]  # fmt: skip
    return pa.Table.from_pylist(before), pa.Table.from_pylist(after)


def noisy(outcomes: Flags, noise: float, rng: np.random.Generator) -> Flags:
    """The outcomes again, a share of `noise` of them changed, or of as many as can be.

    Successes become failures as often as failures become successes: the rate stays, and neither of
    the two is distinguished.
    """
    rate = outcomes.mean()
    if rate in (0, 1):
        return outcomes
    each = min(noise / 2, rate, 1 - rate)
    chance = np.where(outcomes, each / rate, each / (1 - rate))
    changed: Flags = outcomes ^ (rng.random(len(outcomes)) < chance)
    return changed


def lost(outcomes: Flags, fall: float, rng: np.random.Generator) -> Flags:
    """The outcomes with `fall` of all items lost, or of as many as there are successes."""
    right = np.flatnonzero(outcomes)
    gone = rng.choice(right, min(len(right), round(fall * len(outcomes))), replace=False)
    kept = outcomes.copy()
    kept[gone] = False
    return kept
