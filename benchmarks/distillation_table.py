"""The table and the plots of `benchmarks.distillation`, and the students that are in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.report.charts import smooth
from kontext.evaluate.statistics import Interval, cluster_rate

STUDENTS: dict[str, dict[str, Any]] = {
    "LADD": {"method": "ladd", "adversarial_weight": 1.0, "anchor_weight": 0.0},
    "LADD with anchor": {"method": "ladd", "adversarial_weight": 1.0, "anchor_weight": 1.0},
    "anchor alone": {"method": "ladd", "adversarial_weight": 0.0, "anchor_weight": 1.0},
    "DMD2": {"method": "dmd2"},
}
ABLATION: dict[str, dict[str, Any]] = {
    "LADD, no negatives": {**STUDENTS["LADD"], "negative_weight": 0.0},
    "LADD, wrong instructions alone": {**STUDENTS["LADD"], "negatives": ("instruction",)},
    "LADD, wrong contexts alone": {**STUDENTS["LADD"], "negatives": ("context", "copy")},
}
PUBLISHED: dict[str, dict[str, Any]] = {  # LADD's own level of the heads' noise
    "LADD, logit-normal(1, 1)": {**STUDENTS["LADD"], "renoise_mean": 1.0, "renoise_std": 1.0},
}
EVERY = {**STUDENTS, **ABLATION, **PUBLISHED}
FIGURES = {  # column -> digits; the arrow is the better way
    "KID ↓": 2,
    "precision ↑": 3,
    "recall ↑": 3,
    "saturation ± 0": 3,
    "diversity": 3,
    "edits: right choice ↑": 3,
    "edits: change outside ↓": 2,
    "edits: KID ↓": 3,
}
Figures = dict[str, float]


@dataclass
class Row:
    """One line of the table: figures of each seed, and of each item whether it was right."""

    name: str
    steps: int
    passes: int  # through the network, of one edit
    seeds: list[Figures] = field(default_factory=list)
    right: list[Any] = field(default_factory=list)  # [N] each

    def rate(self, bench: Bench) -> Interval:
        """The right choice over items and seeds, with an interval for related items."""
        clusters = [item.cluster for item in bench.items]
        return cluster_rate(np.mean(self.right, axis=0), clusters)


def table(rows: Sequence[Row], bench: Bench) -> str:
    """Markdown: a line per row, mean ± standard deviation over seeds."""
    head = ["", "steps", "passes", *FIGURES, "right choice, 95 %"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row.name, str(row.steps), str(row.passes)]
        for name, digits in FIGURES.items():
            values = [figures[name] for figures in row.seeds]
            spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
            cells.append(f"{np.mean(values):.{digits}f} ± {spread:.{digits}f}")
        rate = row.rate(bench)
        lines.append(f"| {' | '.join([*cells, f'{rate.low:.3f} to {rate.high:.3f}'])} |")
    return "\n".join(lines)


def plot(path: Path, ylabel: str, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """A PNG of the mean over seeds, smoothed, with the seeds' range; runs may differ in length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained", dpi=150)
    axes = figure.subplots()
    for name, runs in curves.items():
        smoothed = np.stack([smooth(np.asarray(run, np.float64), 9) for run in runs])
        share = np.linspace(0, 100, smoothed.shape[1])
        (line,) = axes.plot(share, smoothed.mean(axis=0), label=name)
        axes.fill_between(
            share, smoothed.min(axis=0), smoothed.max(axis=0), alpha=0.2, color=line.get_color()
        )
    axes.set_xlabel("% of the run's operations")
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def plots(folder: Path, histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> None:
    """Heads' accuracy and gradient norms of the students; what negatives teach the heads."""

    methods = [*STUDENTS, *PUBLISHED]
    judged = [name for name in methods if "accuracy" in histories[name][0][0]]
    accuracy = {name: _column(histories[name], "accuracy") for name in judged}
    norms = {name: _column(histories[name], "student_grad_norm") for name in STUDENTS}
    gaps = {
        name: np.subtract(
            _column(histories[name], "real_logit"), _column(histories[name], "wrong_logit")
        ).tolist()
        for name in ("LADD", *ABLATION)
    }
    plot(folder / "accuracy.png", "heads' accuracy", accuracy)
    plot(folder / "gradients.png", "student's gradient norm", norms)
    plot(folder / "negatives.png", "logit of edits less that of negatives", gaps)


def _column(runs: Sequence[Sequence[Mapping[str, float]]], name: str) -> list[list[float]]:
    return [[float(row[name]) for row in rows] for rows in runs]
