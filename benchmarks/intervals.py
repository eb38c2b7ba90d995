"""Do the printed intervals hold the truth? Planted effects, and ways to give an interval.

    python -m benchmarks.intervals [--simulations 300] [--seed 0] [--alone]
        [--out benchmarks/results/intervals-cpu.json]

Sixty items of 8, 13 or 40 clusters of unequal size, related by a correlation of 0, 0.1 or 0.3
within a cluster. For each figure the share of simulations whose 95 % interval holds the planted
truth, by method; `kontext` is the one in use. Then, of two versions on the same items, how often no
difference is called one; and, through the function that `kontext nightly` calls, how many unchanged
nights raise the alarm, and how many nights after a fall of 15 points. `--alone` leaves out the
other methods. Exits 1 when a goal is not reached.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import goal
from benchmarks.interval_methods import ANY, OF_RATES, OF_RATIOS, Bounds, Method
from benchmarks.nights import NIGHTS, alarms
from benchmarks.planted import (
    Plant,
    Sample,
    a_difference,
    a_mean,
    a_rate,
    a_ratio,
    a_skewed_mean,
)
from kontext.evaluate.paired import difference
from kontext.evaluate.statistics import Interval, cluster_mean, cluster_rate, cluster_ratio

CLUSTERS = (8, 13, 40)
CORRELATIONS = (0.0, 0.1, 0.3)
LEAST, MOST_FALSE = 0.93, 0.06
KEPT = "kontext"


def _kept(interval: Interval) -> Bounds:
    return interval.low, interval.high


def kept_rate(sample: Sample) -> Bounds:
    """What is in use."""
    return _kept(cluster_rate(sample.top, sample.names))


def kept_mean(sample: Sample) -> Bounds:
    """What is in use."""
    return _kept(cluster_mean(sample.top, sample.names))


def kept_ratio(sample: Sample) -> Bounds:
    """What is in use."""
    return _kept(cluster_ratio(sample.top, sample.bottom, sample.names))


def kept_difference(sample: Sample) -> Bounds:
    """What is in use."""
    before, after = np.maximum(-sample.top, 0), np.maximum(sample.top, 0)
    return _kept(difference(before, after, sample.names).interval)


@dataclass(frozen=True)
class Figure:
    """A kind of figure: how it is planted, what is in use for it, and what else there is."""

    name: str
    plant: Plant
    kept: Callable[[Sample], Bounds]
    others: Mapping[str, Method]


FIGURES = (
    *(Figure(f"rate {r:.0%}", a_rate(r), kept_rate, OF_RATES) for r in (0.5, 0.8, 0.95)),
    Figure("mean", a_mean, kept_mean, ANY),
    Figure("skewed mean", a_skewed_mean, kept_mean, ANY),
    Figure("ratio", a_ratio, kept_ratio, OF_RATIOS),
    Figure("difference +15", a_difference(0.6, 0.75), kept_difference, ANY),
    Figure("difference +30", a_difference(0.6, 0.9), kept_difference, ANY),
    Figure("no difference", a_difference(0.6, 0.6), kept_difference, ANY),
    Figure("no difference, 90 %", a_difference(0.9, 0.9), kept_difference, ANY),
)


@dataclass(frozen=True)
class Cell:
    """Coverage and median width by method, of one figure, number of clusters and correlation."""

    figure: str
    clusters: int
    correlation: float
    coverage: dict[str, float]
    width: dict[str, float]


def covered(
    figure: Figure,
    clusters: int,
    correlation: float,
    simulations: int,
    seed: int,
    others: bool = True,
) -> Cell:
    """Plant a figure many times and count the intervals that hold the truth."""
    number = [each.name for each in FIGURES].index(figure.name)
    key = (seed, number, clusters, round(100 * correlation))
    rng, drawing = np.random.default_rng(key), np.random.default_rng((1, *key))
    hits: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for _ in range(simulations):
        sample = figure.plant(clusters, correlation, rng)
        found = {KEPT: figure.kept(sample)}
        for name, method in figure.others.items() if others else ():
            found[name] = method(sample.top, sample.bottom, sample.clusters, sample.truth, drawing)
        for name, (low, high) in found.items():
            hits.setdefault(name, []).append(low - 1e-9 <= sample.truth <= high + 1e-9)
            widths.setdefault(name, []).append(high - low)
    return Cell(
        figure.name,
        clusters,
        correlation,
        {name: float(np.mean(each)) for name, each in hits.items()},
        {name: float(np.median(each)) for name, each in widths.items()},
    )


def table(cells: Sequence[Cell]) -> str:
    """Markdown: coverage of every method in percent, a line a cell; the width of the one in use."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.coverage))
    lines = [
        f"| figure | clusters | correlation | {' | '.join(names)} | width |",
        "|---" * (len(names) + 4) + "|",
    ]
    for cell in cells:
        shown = [f"{cell.coverage[n]:.1%}" if n in cell.coverage else "" for n in names]
        lines.append(
            f"| {cell.figure} | {cell.clusters} | {cell.correlation:g} | {' | '.join(shown)} "
            f"| {cell.width[KEPT]:.3f} |"
        )
    return "\n".join(lines)


def least(cells: Sequence[Cell]) -> dict[str, tuple[float, float]]:
    """Method -> (lowest coverage of a cell, mean coverage)."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        for name, share in cell.coverage.items():
            found.setdefault(name, []).append(share)
    return {name: (min(each), float(np.mean(each))) for name, each in found.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 when a goal is not reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--simulations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help="only the method in use")
    parser.add_argument("--out", type=Path, help="write the record as JSON")
    args = parser.parse_args(argv)
    cells = [
        covered(figure, k, icc, args.simulations, args.seed, not args.alone)
        for figure in FIGURES
        for k in CLUSTERS
        for icc in CORRELATIONS
    ]
    print(table(cells), flush=True)
    lowest = least(cells)
    for name, (low, mean) in sorted(lowest.items(), key=lambda each: -each[1][0]):
        print(f"{name:14s} least {low:6.1%}  mean {mean:6.1%}")
    false = max(1 - c.coverage[KEPT] for c in cells if c.figure.startswith("no "))
    fine = [
        goal("least coverage of planted effects", lowest[KEPT][0], LEAST, at_least=True),
        goal("no difference that is called one, at most", false, MOST_FALSE),
    ]
    nights: dict[str, Any] = {}
    for night in NIGHTS:
        share = alarms(night, args.simulations, args.seed)
        nights[night.name] = share
        if night.most is not None:
            fine.append(goal(f"alarms, {night.name}", share, night.most))
        if night.least is not None:
            fine.append(goal(f"alarms, {night.name}", share, night.least, at_least=True))
    if args.out:
        record = {"cells": [vars(cell) for cell in cells], "least": lowest, "nights": nights}
        record |= {"simulations": args.simulations, "seed": args.seed}
        args.out.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
