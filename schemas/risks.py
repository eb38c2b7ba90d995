"""Risks that images are screened for. Each is stated by the classifier that finds it.

A new risk is a new file in kontext/safety/classifiers and its entry in a policy. The catalog's
tables, its acceptance view and the report know all risks. What a screening writes follows the
classifiers that its recipe names, and no others: only those are in its digest. Imports point down,
so the package is looked into by its name.
"""

from dataclasses import dataclass
from functools import cache

from schemas.discovery import plugins

CHANGES_RESULTS = True

PACKAGE = "kontext.safety.classifiers"


@dataclass(frozen=True)
class Risk:
    """One risk; `name` gives the column and limit `<name>_max`, and the reason `<name>`."""

    name: str
    classifier: str
    score: str  # what is measured, in the column's comment: "largest <score> score over ..."
    label: str  # in reports: "<label> score above its limit"
    refusal: str  # the message to a user whose image is refused
    always_varies: bool = True  # a score that is the same over 1,000 images is then an error

    @property
    def column(self) -> str:
        """Its column in pair_scores, and the name of its limit in a policy."""
        return f"{self.name}_max"


@cache
def risks(classifiers: tuple[str, ...] | None = None) -> dict[str, Risk]:
    """Name -> risk, sorted by name, of these classifiers; of all there are where none are given."""
    modules = plugins(PACKAGE, "RISKS")
    named = [name for name in modules if classifiers is None or name in classifiers]
    found = {risk.name: risk for name in named for risk in modules[name].RISKS}
    return dict(sorted(found.items()))
