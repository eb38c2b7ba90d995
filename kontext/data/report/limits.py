"""The limits that a policy sets, the scores they are of, and how far each pair is from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.risks import risks
from schemas.tables import JUDGED_SCORES

CHANGES_RESULTS = False  # shows what is there

Values = NDArray[np.float64]

# scores that say nothing of a pair without a context
_OF_EDITS = frozenset(
    [
        *("clip_i", "clip_dir", "ssim", "l1", "changed_frac", "change_kept", "pdq_distance"),
        *("largest_blob", "misalignment", "sharpness"),
    ]
)
_CROPPED, _CROPPED_LIMIT = "change_kept_min", 0.95  # in force where a policy does not say
_PLAIN = "_unmatchable"  # the limit where the hash gate could not match an image
_REASONS = {_CROPPED: "edit_cropped"}


@dataclass(frozen=True)
class Limit:
    """One filter on a score. `overrides` are limits of single categories, or of plain images."""

    threshold: str  # its name in the policy
    value: float
    overrides: Mapping[str, float]

    @property
    def reason(self) -> str:
        """What a pair that it rejects is said to have."""
        return _REASONS.get(self.threshold, self.threshold)

    @property
    def column(self) -> str:
        """The score."""
        if self.of_safety and not self.threshold.startswith("exposure_delta"):
            return self.threshold
        return self.threshold.removesuffix("_min").removesuffix("_max")

    @property
    def of_safety(self) -> bool:
        """Whether what it rejects is never shown."""
        return self.threshold in {f"{name}_max" for name in (*risks(), "exposure_delta")}

    @property
    def least(self) -> bool:
        """Whether it is the least value that passes, else the most."""
        return self.threshold.endswith("_min")

    @property
    def text(self) -> str:
        """In words: at least 0.002."""
        word = "at least" if self.least else "at most"
        other = [f"{kind}: {value:g}" for kind, value in sorted(self.overrides.items())]
        return f"{word} {self.value:g}" + (f" ({', '.join(other)})" if other else "")

    def margin(self, values: Values, categories: Sequence[str]) -> Values:
        """How far each score is inside the limit of its category: below 0 it is rejected."""
        own = np.array([self.overrides.get(name, self.value) for name in categories])
        return values - own if self.least else own - values


def limits(thresholds: Mapping[str, float]) -> list[Limit]:
    """The limits of a policy's thresholds, by name."""
    known = {_CROPPED: _CROPPED_LIMIT, **thresholds}
    return [
        Limit(
            name,
            value,
            _overrides(name, known),
        )
        for name, value in sorted(known.items())
        if "@" not in name and not name.endswith(_PLAIN)
    ]


def _overrides(name: str, known: Mapping[str, float]) -> dict[str, float]:
    found = {
        other.partition("@")[2]: limit
        for other, limit in known.items()
        if other.startswith(f"{name}@")
    }
    if f"{name}{_PLAIN}" in known:
        found[_PLAIN.strip("_")] = known[f"{name}{_PLAIN}"]
    return found


def score_columns(scores: pa.Table, judgements: pa.Table | None) -> dict[str, Values]:
    """Score -> its value for each pair in the order of `scores`; NaN where there is none."""
    found = {
        field.name: scores[field.name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        for field in scores.schema
        if pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    }
    if judgements is not None and judgements.num_rows:
        row_of = {pair: row for row, pair in enumerate(judgements["pair_id"].to_pylist())}
        place = [row_of.get(pair, -1) for pair in scores["pair_id"].to_pylist()]
        for name in JUDGED_SCORES:
            values = judgements[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
            found[f"judge_{name}"] = np.append(values, np.nan)[place]
    return found


def measured(column: str, values: Values, is_edit: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which pairs the score says something of."""
    known: NDArray[np.bool_] = np.isfinite(values)
    return known & is_edit if column in _OF_EDITS else known
