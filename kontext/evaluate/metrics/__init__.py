"""The metric registry: a new metric is one file and one line here."""

from __future__ import annotations

from kontext.evaluate.metrics import clip, fidelity, success
from kontext.evaluate.metrics.base import Measured, Metric, Scoring

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (*success.METRICS, *fidelity.METRICS, *clip.METRICS)
}

__all__ = ["METRICS", "Measured", "Metric", "Scoring"]
