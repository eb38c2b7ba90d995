"""Samples of related items with a known truth."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ITEMS = 60


@dataclass(frozen=True)
class Sample:
    """Items [N] with the numbers of their clusters, and the planted truth of sum / sum."""

    top: Floats
    bottom: Floats
    clusters: NDArray[np.int64]
    truth: float

    @property
    def names(self) -> list[str]:
        """The clusters, as the library takes them."""
        return [str(number) for number in self.clusters]


Plant = Callable[[int, float, np.random.Generator], Sample]


def sizes(clusters: int, rng: np.random.Generator, items: int = ITEMS) -> NDArray[np.int64]:
    """The cluster of each item: every cluster has one, the others are spread unequally."""
    share = rng.dirichlet(np.full(clusters, 2.0))
    return np.repeat(np.arange(clusters), 1 + rng.multinomial(items - clusters, share))


def related(
    rate: float, of: NDArray[np.int64], correlation: float, rng: np.random.Generator
) -> Floats:
    """Outcomes, 0 or 1, of a rate that differs between clusters (beta-binomial)."""
    k = int(of.max()) + 1
    if correlation == 0:
        rates = np.full(k, rate)
    else:
        strength = (1 - correlation) / correlation
        rates = rng.beta(rate * strength, (1 - rate) * strength, k)
    return (rng.random(len(of)) < rates[of]).astype(np.float64)


def normal(of: NDArray[np.int64], correlation: float, rng: np.random.Generator) -> Floats:
    """Normal values of mean 0 and variance 1, related within clusters."""
    shared = rng.normal(size=int(of.max()) + 1)[of]
    alone = rng.normal(size=len(of))
    found: Floats = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * alone
    return found


def a_rate(rate: float) -> Plant:
    """A rate of success."""

    def plant(clusters: int, correlation: float, rng: np.random.Generator) -> Sample:
        of = sizes(clusters, rng)
        return Sample(related(rate, of, correlation, rng), np.ones(ITEMS), of, rate)

    return plant


def a_mean(clusters: int, correlation: float, rng: np.random.Generator) -> Sample:
    """A mean of normal values, such as decibels."""
    of = sizes(clusters, rng)
    return Sample(28 + 3 * normal(of, correlation, rng), np.ones(ITEMS), of, 28.0)


def a_skewed_mean(clusters: int, correlation: float, rng: np.random.Generator) -> Sample:
    """A mean of log-normal values, such as distances."""
    of = sizes(clusters, rng)
    values = np.exp(0.5 * normal(of, correlation, rng))
    return Sample(values, np.ones(ITEMS), of, math.exp(0.125))


def a_ratio(clusters: int, correlation: float, rng: np.random.Generator) -> Sample:
    """Errors over errors, both skewed: a ratio of sums of 1.3."""
    of = sizes(clusters, rng)
    bottom = np.exp(0.5 * normal(of, correlation, rng))
    spread = 0.3
    factor = 1.3 * np.exp(spread * normal(of, correlation, rng) - spread**2 / 2)
    return Sample(bottom * factor, bottom, of, 1.3)


def a_difference(before: float, after: float) -> Plant:
    """The difference of two versions on the same items, each with its own cluster effects."""

    def plant(clusters: int, correlation: float, rng: np.random.Generator) -> Sample:
        of = sizes(clusters, rng)
        one, other = (related(rate, of, correlation, rng) for rate in (before, after))
        return Sample(other - one, np.ones(ITEMS), of, after - before)

    return plant
