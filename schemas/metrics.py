"""Metrics that edits are scored with. Each is stated by its own file in kontext/evaluate/metrics.

A new metric is a column of the catalog's `evaluated_items` by itself. Imports point down, so the
package is looked into by its name.
"""

from schemas.discovery import plugins

CHANGES_RESULTS = False  # names columns of what is recorded

PACKAGE = "kontext.evaluate.metrics"


def scores_of_items() -> dict[str, str]:
    """Metric -> what it is, of all metrics that give each item a number; success is no number."""
    metrics = (m for module in plugins(PACKAGE, "METRICS").values() for m in module.METRICS)
    return {metric.name: metric.definition for metric in metrics if metric.name != "success"}
