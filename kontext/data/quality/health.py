"""Whether the filters of a screening work: what they do to all pairs, and did in the last version.

Published pipelines have shipped filters that rejected everything, or nothing, or measured the same
for all. So each is an error over 1,000 pairs, and so is a filter that does something else than it
did for the last version of the dataset. What is right all the same is said in the recipe.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kontext.errors import FilterError, RecipeError
from kontext.safety.policy import INERT_FROM, filter_health
from schemas.risks import Risk
from schemas.sections.data import SAFETY

FILE = "filters.json"
DRIFT = 3.0  # standard errors
_RATE_BY, _MEAN_BY = 0.01, 0.1  # and at least so much: of all pairs, and standard deviations
_VARYING = ("clip_t", "ssim", "l1")  # scores that differ on any real set of pairs
_FLAT = (  # those that may be the same for all of it
    *("exposure_delta", "changed_frac", "largest_blob", "misalignment", "sharpness"),
    *("change_kept", "clip_dir", "pdq_distance"),
)
_LEARNT = ("clip_t", "clip_dir")  # of another scorer the scores are others
_REASONS = {"change_kept": "edit_cropped"}  # of scores whose reason is not their own name
_ALWAYS = "change_kept"  # has a limit whatever the policy says
_NOTHING = {"pdq_distance_min": 0}  # a limit that no score is below is none


@dataclass(frozen=True)
class Filter:
    """A score with a limit. `name` is its column, and what recipes call it."""

    name: str
    safety: bool
    varies: bool

    def limits(self, thresholds: Mapping[str, float]) -> bool:
        """Whether it can reject anything by these thresholds."""
        if self.name == _ALWAYS:
            return True
        own = {self.name, f"{self.name}_min", f"{self.name}_max"}
        return any(
            name.partition("@")[0] in own and _NOTHING.get(name) != value
            for name, value in thresholds.items()
        )

    def rejects(self, reasons: Sequence[str]) -> bool:
        """Whether one of a pair's reasons is its own."""
        stem = _REASONS.get(self.name, self.name.removesuffix("_max"))
        return any(reason.startswith(stem) for reason in reasons)


@dataclass(frozen=True)
class Health:
    """What a filter did: over how many pairs, how many pass, mean and deviation of its score."""

    count: int
    rate: float
    mean: float
    std: float
    limited: bool
    drift: float | None = None  # standard errors from the last version; None: not compared


def filters(known: Mapping[str, Risk]) -> tuple[Filter, ...]:
    """The filters of a screening for these risks."""
    return (
        *(Filter(risk.column, True, risk.always_varies) for risk in known.values()),
        *(Filter(name, False, True) for name in _VARYING),
        *(Filter(name, name == "exposure_delta", False) for name in _FLAT),
    )


def allowed(names: Sequence[str], among: Sequence[Filter], key: str) -> set[str]:
    """The filters that a recipe names; `safety` is all of safety. Raises RecipeError."""
    own = {one.name for one in among}
    for name in names:
        if name not in own and name != SAFETY:
            known = ", ".join(sorted(own))
            raise RecipeError(f"screen.{key}: there is no filter '{name}' ({SAFETY}, {known})")
    safe = {one.name for one in among if one.safety} if SAFETY in names else set()
    return safe | (own & set(names))


def health(
    one: Filter,
    scores: pa.Table,
    reasons: Sequence[Sequence[str]],
    thresholds: Mapping[str, float],
    may_pass_all: Collection[str],
) -> Health:
    """What a filter did. `reasons` are those of every pair, in the order of `scores`.

    Raises:
        FilterError: its score is constant, or none or all of 1,000 pairs pass (`filter_health`).
        CanaryError: the score of a filter of safety is constant.
    """
    hit = np.array([one.rejects(own) for own in reasons], bool)
    measured = scores[one.name].is_valid().to_numpy()
    values = scores[one.name].drop_null().to_numpy().astype(np.float64)
    limited = one.limits(thresholds)
    open_to_all = not limited or one.name in may_pass_all
    rate = filter_health(one.name, values, ~hit[measured], one.safety, one.varies, open_to_all)
    finite = values[np.isfinite(values)]
    mean, std = (float(finite.mean()), float(finite.std())) if len(finite) else (0.0, 0.0)
    return Health(len(values), round(rate, 5), round(mean, 6), round(std, 6), limited)


def drift(now: Health, before: Health, same_scores: bool = True) -> float:
    """Standard errors by which a pass rate or a mean score has moved: the larger one.

    As if both versions were drawn independently. 0 below 1,000 pairs, or where the rate moves by
    less than a point and the mean by less than a tenth of a standard deviation: over millions of
    pairs nothing is too small to be told apart.

    Args:
        same_scores: whether the two were scored alike; else only the rates are compared.
    """
    if min(now.count, before.count) < INERT_FROM:
        return 0.0
    each = 1 / now.count + 1 / before.count
    both = (now.rate * now.count + before.rate * before.count) / (now.count + before.count)
    moved = abs(now.rate - before.rate)
    by_rate = moved / math.sqrt(both * (1 - both) * each) if moved >= _RATE_BY else 0.0
    spread = math.sqrt((now.std**2 + before.std**2) / 2)
    away = abs(now.mean - before.mean)
    if not same_scores or away < max(_MEAN_BY * spread, 1e-6):
        return by_rate
    error = math.sqrt(now.std**2 / now.count + before.std**2 / before.count)
    return max(by_rate, away / error if error else math.inf)


def compared(
    now: Mapping[str, Health], before: Mapping[str, Any] | None, same_clip: bool
) -> dict[str, Health]:
    """The same with how far each has drifted from the last version's FILE, where there is one."""
    found = dict(now)
    for name, own in now.items():
        if before and name in before:
            sigmas = drift(own, Health(**before[name]), same_clip or name not in _LEARNT)
            shown = round(min(sigmas, 1e6), 2)  # JSON has no infinity
            found[name] = Health(**{**asdict(own), "drift": shown})
    return found


def require_steady(found: Mapping[str, Health], accepted: Collection[str], last: str) -> None:
    """Raise FilterError for a filter with a limit that has drifted, and may not.

    Args:
        accepted: the filters that may.
        last: what was compared with, for the message.
    """
    for name, own in found.items():
        if own.limited and (own.drift or 0) > DRIFT and name not in accepted:
            raise FilterError(
                name,
                f"its pass rate ({own.rate:.1%}) or mean score ({own.mean:.4g}) is {own.drift:.1f} "
                f"standard errors from {last}'s: if that is right, name it in screen.may_drift",
            )
