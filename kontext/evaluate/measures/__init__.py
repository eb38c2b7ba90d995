"""Measures of one edit, of any size: what `kontext bench` prints beside the judges' scores.

To add one, write one file here with `MEASURES`, a dictionary of `Measure` by name. A bench names
those it wants; what cannot be measured is said with its reason (`MetricUnavailable`). May import
kontext.evaluate.pixels, kontext.evaluate.metrics, kontext.data and kontext.models.
"""

from kontext.evaluate.measures.base import Made, Measure, Opened
from kontext.evaluate.metrics.base import Card
from schemas.discovery import plugins

CHANGES_RESULTS = False  # for users; no stage runs a public bench

MEASURES: dict[str, Measure] = {
    name: measure
    for module in plugins(__name__, "MEASURES").values()
    for name, measure in module.MEASURES.items()
}

__all__ = ["MEASURES", "Card", "Made", "Measure", "Opened"]
