"""Safety policies: versioned files of classifiers and limits."""

import hashlib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from kontext.errors import CanaryError, GateError, RecipeError
from kontext.safety.ncii import NciiLimits
from schemas.paths import expanded
from schemas.risks import risks
from schemas.sections.data import CaptionConfig, ScreenConfig

Values = NDArray[np.float32]

INERT_FROM = 1000  # items from which a constant score or an all-rejecting filter is an error
_UNMATCHABLE = "_unmatchable"
_EXPOSURE = "exposure_delta_max"


def _one_counts_whole(weights: dict[str, float]) -> dict[str, float]:
    """A policy is made milder by its limits; weights tell labels apart."""
    if max(weights.values(), default=1) != 1:
        raise ValueError("the largest weight must be 1")
    return weights


Weights = Annotated[
    dict[str, Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]],
    AfterValidator(_one_counts_whole),
]


class ImageRisk(NamedTuple):
    """Risk of N images, float32 [N] each in [0, 1]; NaN where a classifier failed."""

    scores: dict[str, Values]  # risk -> score; 0 for a risk that the policy does not weigh
    exposure: Values
    person: Values


class Retention(BaseModel):
    """How long a home keeps what edits leave behind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    edit_days: float = Field(30, gt=0, le=3650, allow_inf_nan=False)  # results, see safety.chains


class Policy(BaseModel):
    """A policy file. Thresholds are those of the `acceptance` view."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    description: str
    classifiers: tuple[str, ...]
    thresholds: dict[str, FiniteFloat]
    risks: dict[str, Weights]  # risk -> label -> weight; the largest is its score
    exposure_weights: Weights  # the largest weighted one is the exposure
    person_labels: tuple[str, ...]  # the largest is the person score; empty: always a person
    ncii: NciiLimits
    retention: Retention = Retention()

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_files(cls, data: Any) -> Any:
        """Files from before policies named their risks had weights of nudity alone."""
        if isinstance(data, dict) and "nudity_weights" in data:
            data = dict(data)
            nudity = data.pop("nudity_weights")
            data["risks"] = {"nsfw": {"nsfw": 1.0}, **({"nudity": nudity} if nudity else {})}
        return data

    @model_validator(mode="after")
    def _limits_that_limit(self) -> Self:
        """A limit of safety is a number that a score can be above."""
        for name, value in self.thresholds.items():
            limit = name.partition("@")[0].removesuffix(_UNMATCHABLE)
            safety = limit == _EXPOSURE or any(limit == r.column for r in risks().values())
            if safety and not 0 <= value < 1:
                raise ValueError(f"the limit {name} is {value}, which stops nothing: [0, 1)")
        if _EXPOSURE not in self.thresholds:
            raise ValueError(f"a limit {_EXPOSURE} is required")
        return self

    def risk(self, scores: Mapping[str, Values], names: Iterable[str] | None = None) -> ImageRisk:
        """Combine label scores (of the policy's classifiers, label -> [N]) into risks.

        `names` are the risks that are wanted; all there are where none are given.
        """
        zeros = np.zeros_like(next(iter(scores.values())))
        wanted = risks() if names is None else names

        def largest(weights: Mapping[str, float], default: Values) -> Values:
            parts = [weight * scores[label] for label, weight in weights.items()]
            found: Values = np.maximum.reduce(parts) if parts else default  # keeps NaN
            return found

        return ImageRisk(
            {name: largest(self.risks.get(name, {}), zeros) for name in wanted},
            largest(self.exposure_weights, zeros),
            largest(self._persons(), zeros + 1),
        )

    def _persons(self) -> dict[str, float]:
        """The labels that show a person: what is bare belongs to somebody, face or no face."""
        bare = self.exposure_weights if self.person_labels else ()
        return dict.fromkeys((*self.person_labels, *bare), 1.0)

    def limit(self, name: str, unmatchable: bool) -> float:
        """`nsfw_max` or another; the stricter one for images the hash gate cannot match."""
        usual = self.thresholds.get(name, 1.0)
        return min(usual, self.thresholds.get(name + _UNMATCHABLE, usual)) if unmatchable else usual


def load_policy(name: str) -> Policy:
    """A packaged policy by name (`default`, `no-nudenet`), or a `.json` file by path.

    Raises:
        RecipeError: no such policy, or a file that is not one; it says which key is wrong.
    """
    from kontext.errors import CatalogError
    from kontext.store.catalog.views import check_thresholds

    try:
        policy = Policy.model_validate_json(_text(name))
        check_thresholds(policy.thresholds)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RecipeError(f"policy {name}: {where}: {first['msg']}") from error
    except CatalogError as error:
        raise RecipeError(f"policy {name}: {error}") from error
    if "open-nsfw" not in policy.classifiers or "nsfw_max" not in policy.thresholds:
        raise RecipeError(f"policy {name}: open-nsfw and a limit nsfw_max are required")
    known = {**risks(), **risks(policy.classifiers)}
    for risk in policy.risks:
        if risk not in known:
            raise RecipeError(
                f"policy {name}: no classifier finds '{risk}' (known: {', '.join(known)})"
            )
        classifier, column = known[risk].classifier, known[risk].column
        if classifier not in policy.classifiers or column not in policy.thresholds:
            raise RecipeError(
                f"policy {name}: the risk {risk} needs the classifier {classifier} and a limit "
                f"{column}"
            )
    for risk in risks(policy.classifiers):
        if risk not in policy.risks:
            raise RecipeError(
                f"policy {name}: it names {known[risk].classifier}, but not its {risk}"
            )
    return policy


def _text(name: str) -> str:
    """The policy file. Raises RecipeError."""
    folder = resources.files("kontext.safety").joinpath("policies")
    if name.endswith(".json"):
        try:
            return expanded(name).read_text("utf-8")
        except OSError as error:
            raise RecipeError(f"policy {name} cannot be read: {error.strerror}") from error
    if folder.joinpath(f"{name}.json").is_file():
        return folder.joinpath(f"{name}.json").read_text("utf-8")
    known = ", ".join(sorted(item.name.removesuffix(".json") for item in folder.iterdir()))
    raise RecipeError(f"unknown policy '{name}' (known: {known}, or a path to a .json file)")


def fingerprint(config: ScreenConfig | CaptionConfig, home: Path | None = None) -> str:
    """SHA-256 of the policy that the section names: its text is part of what screening makes.

    Raises:
        RecipeError: there is no such policy.
    """
    return hashlib.sha256(_text(config.policy).encode()).hexdigest()


def classifiers_for(policy: Policy, config: ScreenConfig) -> tuple[str, ...]:
    """The classifiers a screening runs: the policy's, all of which the recipe must allow.

    Raises:
        RecipeError: the policy needs one that `screen.classifiers` leaves out.
    """
    for name in policy.classifiers:
        if name not in config.classifiers:
            raise RecipeError(
                f"policy {policy.version} needs the classifier {name}, which screen.classifiers "
                "leaves out: add it, or choose another screen.policy"
            )
    return policy.classifiers


def filter_health(
    name: str,
    values: NDArray[np.floating],
    passed: NDArray[np.bool_],
    safety: bool = False,
    varies: bool = True,
) -> float:
    """The pass rate of a filter; an inert one stops the run.

    A score that may rightly be the same for all items does not have to vary (`varies`).

    Published pipelines have shipped filters whose score was always 1.0, so this is an error here.

    Raises:
        GateError: over at least 1,000 items the score never varies or nothing passes.
        CanaryError: the score of a `safety` filter never varies, so it keeps nothing out. (Where
            nothing passes, the limit may be somebody's choice, and nothing unsafe gets in.)
    """
    finite = values[np.isfinite(values)]
    rate = float(passed.mean()) if len(passed) else 1.0
    if len(values) >= INERT_FROM:
        if not len(finite) or (varies and finite.std() < 1e-7):
            kind = CanaryError if safety else GateError
            raise kind(f"filter {name} is broken: its score is constant over {len(values)}")
        if rate == 0.0:
            raise GateError(f"filter {name} is broken: none of {len(values)} items passes")
    return rate
