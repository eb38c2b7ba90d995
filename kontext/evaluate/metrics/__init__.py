"""Metrics of edits.

To add one, write one file here with `METRICS`, a tuple of `Metric`: it is measured and reported.
Metrics are listed by their file's `PLACE` (those without one come last), then by its name. May
import kontext.evaluate.benches, kontext.evaluate.pixels and kontext.data.quality.
"""

from types import ModuleType

from kontext.evaluate.metrics.base import Measured, Metric, Scoring
from schemas.discovery import plugins
from schemas.sections.evaluation import EvaluateConfig


def _modules() -> list[ModuleType]:
    found = plugins(__name__, "METRICS").values()
    return sorted(found, key=lambda module: getattr(module, "PLACE", len(found)))


METRICS: dict[str, Metric] = {
    metric.name: metric for module in _modules() for metric in module.METRICS
}


def modules_named(_: EvaluateConfig) -> list[str]:
    """Modules of the metrics that the section asks for: all there are."""
    return [module.__name__ for module in _modules()]


__all__ = ["METRICS", "Measured", "Metric", "Scoring", "modules_named"]
