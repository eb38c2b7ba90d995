"""Do comparisons of recipes over several seeds hold the truth? Simulated, without a difference.

    python -m benchmarks.seed_intervals [--simulations 400] [--seed 0]
        [--out benchmarks/results/seed_intervals-cpu.json]

Two recipes that are the same, 2, 3 or 5 trainings of each, scored on the same sixty items of forty
clusters (correlation 0.3). Whether an item succeeds depends on the item, on chance, and on the
training as a whole, whose spread is none, 0.1 or 0.25 standard deviations of an item's. Prints the
share of simulations whose 95 % interval holds no difference: of the interval that `kontext compare`
prints, and of one that takes the trainings for more of the same items. Exits 1 where the first is
below its goal.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import goal
from kontext.evaluate.paired import difference

SEEDS, SPREADS = (2, 3, 5), (0.0, 0.1, 0.25)
ITEMS, CLUSTERS, _RELATED, _CHANCE, _EASE = 60, 40, 0.3, 0.6, 0.6
LEAST = 0.93


def held(
    seeds: int, spread: float, simulations: int, draw: np.random.Generator
) -> tuple[float, float]:
    """Share of intervals that hold no difference: those in use, and those of the items alone."""
    runs = [str(run) for run in range(seeds) for _ in range(ITEMS)]
    hits = np.zeros(2)
    for _ in range(simulations):
        of_cluster = draw.integers(0, CLUSTERS, ITEMS)
        ease = _EASE + draw.normal(0, 1, CLUSTERS)[of_cluster] * np.sqrt(_RELATED)
        ease = ease + draw.normal(0, 1, ITEMS) * np.sqrt(1 - _RELATED)
        before, after = (outcomes(ease, seeds, spread, draw) for _ in range(2))
        clusters = [str(cluster) for cluster in of_cluster] * seeds
        for place, known in enumerate((runs, [])):
            interval = difference(before, after, clusters, runs=known).interval
            hits[place] += interval.low <= 0 <= interval.high
    used, alone = hits / simulations
    return float(used), float(alone)


def outcomes(
    ease: np.ndarray[Any, Any], seeds: int, spread: float, draw: np.random.Generator
) -> np.ndarray[Any, Any]:
    """0 or 1 of every training and item, [seeds * ITEMS]."""
    each = [
        ease + draw.normal(0, spread) + draw.normal(0, _CHANCE, ITEMS) > 0 for _ in range(seeds)
    ]
    return np.concatenate(each).astype(np.float64)


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, print, judge, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    draw, rows, reached = np.random.default_rng(args.seed), [], []
    for seeds in SEEDS:
        for spread in SPREADS:
            used, alone = held(seeds, spread, args.simulations, draw)
            rows.append({"seeds": seeds, "spread": spread, "in_use": used, "items_alone": alone})
            what = f"{seeds} seeds, spread {spread:g}: {alone:.1%} by items alone; in use"
            reached.append(goal(what, used, LEAST, at_least=True))
    if args.out:
        args.out.write_text(json.dumps({"simulations": args.simulations, "rows": rows}, indent=1))
    sys.exit(not all(reached))


if __name__ == "__main__":
    main()
