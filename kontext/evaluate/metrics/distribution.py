"""Metrics of sets of pictures, in features: how near two distributions are, and how wide one is.

An edit's own metrics compare it with its one target. A student of few steps can lose what no single
picture shows: some of what its teacher would have made of other noise, or some of its colours. What
is given are features [N, D] of pictures, such as `kontext.evaluate.scoring.pooled_features`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.pixels import Images, Values
from kontext.evaluate.statistics import Interval, jackknifed

CHANGES_RESULTS = False  # compares ways to distil (benchmarks.distillation); no stage does
Features = NDArray[np.float32]
_CHUNK = 1024  # rows whose distances to all others are held at once


def kid(real: Features, made: Features) -> float:
    """Kernel inception distance of two sets [M, D] and [N, D]; 0 for one distribution.

    The unbiased estimate of the squared maximum mean discrepancy with the kernel (x y / D + 1)^3
    (Binkowski et al. 2018, arXiv 1801.01401, section 4). It may fall below 0. In Inception's place
    stands the network that the features are of: figures of different networks do not compare.

    Raises:
        ValueError: a set has fewer than two pictures.
    """
    if min(len(real), len(made)) < 2:
        raise ValueError("a distance of distributions needs two pictures of each at least")
    within = [_others_mean(_kernel(own, own)) for own in (real, made)]
    return float(sum(within) - 2 * _kernel(real, made).mean())


def kid_interval(real: Features, made: Features, clusters: Sequence[str]) -> Interval:
    """`kid` of two sets [N, D] of the same N items, with its 95 % interval over clusters [N].

    Items of one cluster, such as a base picture, are left out together from both sets. Subsets
    drawn at random, as the paper has them, would take related items for independent ones.

    Raises:
        ValueError: fewer than two pictures.
    """
    value = kid(real, made)
    names, index = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    left = len(index) - sizes  # pictures of each set without a cluster

    def without(kernel: Values) -> Values:
        """Sum of a kernel without the rows and columns of each cluster."""
        of_rows = np.bincount(index, kernel.sum(axis=1))
        of_columns = np.bincount(index, kernel.sum(axis=0))
        own = np.array([kernel[np.ix_(index == c, index == c)].sum() for c in range(len(names))])
        return np.asarray(kernel.sum() - of_rows - of_columns + own)

    found = np.full(len(names), np.nan)
    enough = left > 1
    parts = np.zeros(len(names))
    for own in (real, made):
        kernel = _kernel(own, own)
        others = without(kernel) - (np.trace(kernel) - np.bincount(index, np.diag(kernel)))
        parts += others / np.where(enough, left * (left - 1), 1)
    across = without(_kernel(real, made)) / np.where(enough, left**2, 1)
    found[enough] = (parts - 2 * across)[enough]
    return jackknifed(value, found, len(index))


def _kernel(a: Features, b: Features) -> Values:
    products = a.astype(np.float64) @ b.astype(np.float64).T
    return np.asarray((products / a.shape[1] + 1) ** 3)


def _others_mean(kernel: Values) -> float:
    """Mean of a square matrix without its diagonal."""
    count = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))


def precision_recall(real: Features, made: Features, neighbours: int = 3) -> tuple[float, float]:
    """Share of `made` that lies among the real ones, and of `real` that lies among the made ones.

    Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, section 2): a picture
    lies among others where it is no farther from one of them than that one's `neighbours`-th
    nearest fellow is. The paper takes 3. The first falls with artefacts, the second with what is
    never made.

    Raises:
        ValueError: a set has no more pictures than neighbours are asked for.
    """
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(f"{neighbours} nearest neighbours need more pictures of each set")
    return _share_among(made, real, neighbours), _share_among(real, made, neighbours)


def _share_among(points: Features, others: Features, neighbours: int) -> float:
    """The share of points [M, D] that lie in the balls around others [N, D]."""
    own = np.concatenate(
        [
            np.partition(_squares(others[low : low + _CHUNK], others), neighbours)[:, neighbours]
            for low in range(0, len(others), _CHUNK)
        ]
    )  # the nearest of a set's member is itself
    inside = [
        (_squares(points[low : low + _CHUNK], others) <= own).any(axis=1)
        for low in range(0, len(points), _CHUNK)
    ]
    return float(np.concatenate(inside).mean())


def _squares(a: Features, b: Features) -> Values:
    """Squared distances [M, N]; of the same picture exactly 0, whatever the rounding."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
    found = np.maximum(lengths - 2 * x @ y.T, 0.0)
    found[found < 1e-9 * lengths] = 0.0
    return np.asarray(found)


def diversity(of_seeds: Features) -> Values:
    """How much each edit [N] varies with its noise: mean cosine distance, 0 to 2.

    Args:
        of_seeds: features [S, N, D] of the same N edits from S draws of noise, two at least.
    """
    seeds = len(of_seeds)
    if seeds < 2:
        raise ValueError("diversity is between draws: give two or more")
    exact = of_seeds.astype(np.float64)
    unit = exact / np.maximum(np.linalg.norm(exact, axis=2, keepdims=True), 1e-12)
    # of all ordered pairs of draws: the squared length of their sum, less each with itself
    together = np.square(unit.sum(axis=0)).sum(axis=1) - np.square(unit).sum(axis=(0, 2))
    return np.asarray(1 - together / (seeds * (seeds - 1)))


def saturation(images: Images) -> Values:
    """Mean chroma [N] of uint8 [N, H, W, 3], 0 to 1: the strongest channel less the weakest."""
    return np.asarray((np.ptp(images, axis=3) / 255).mean(axis=(1, 2)), np.float64)
