"""Safety policies: what is kept out, by which classifiers and limits.

Three are shipped: `strict` (the default), `research` and `adult-free-commercial`; `no-nudenet` is
strict without NudeNet. `policies/strict.yaml` explains the form.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
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

from kontext.errors import CanaryError, FilterError, GateError, RecipeError
from kontext.safety.ncii import Look, NciiLimits
from kontext.safety.policy_file import Action, BodyPart, Combination, Retention, Texts, fields_of
from schemas.paths import expanded
from schemas.risks import risks
from schemas.sections.data import CaptionConfig, ScreenConfig

Values = NDArray[np.float32]

INERT_FROM = 1000  # items from which a constant score or an all-rejecting filter is an error
_UNMATCHABLE = "_unmatchable"
_EXPOSURE = "exposure_delta_max"
_SAME = {"default": "strict"}
COMBINATION = "combination_"  # reasons of combinations begin so


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
    look: Look  # what the pair rule reads, the largest over all forms of an image
    # an image as a target and as a context, in each way that pairs are read; none: as `look`
    read: tuple[tuple[Look, Look], ...] = ()

    @property
    def ways(self) -> tuple[tuple[Look, Look], ...]:
        """Targets' and contexts' looks, in each way that pairs are read."""
        return self.read or ((self.look, self.look),)

    @property
    def exposure(self) -> Values:
        """How exposed [N]."""
        return self.look.exposure

    @property
    def person(self) -> Values:
        """Whether a person is shown [N]."""
        return self.look.person


class Policy(BaseModel):
    """A policy. Thresholds are those of the `acceptance` view."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    description: str
    classifiers: tuple[str, ...]
    thresholds: dict[str, FiniteFloat]
    risks: dict[str, Weights]  # risk -> label -> weight; the largest is its score
    exposure_weights: Weights  # the largest weighted one is the exposure
    person_labels: tuple[str, ...]  # the largest is the person score; empty: always a person
    face_labels: tuple[str, ...] = ()  # the largest is the face score; empty: always a face
    parts: dict[str, BodyPart] = {}  # of the body, by which the pair rule sees clothing
    ncii: NciiLimits
    texts: Texts = Texts()
    retention: Retention = Retention()
    actions: dict[str, Action] = {}  # risk -> what happens with what it stops; drop
    combinations: tuple[Combination, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all that it says."""
        said = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def of_images(self) -> str:
        """SHA-256 of what it says of images by themselves: with it ingest decides."""
        known = risks(self.classifiers)
        columns = {known[name].column for name in self.risks}
        limits = {
            n: v for n, v in self.thresholds.items() if n.removesuffix(_UNMATCHABLE) in columns
        }
        parts = {"classifiers", "risks", "actions", "combinations"}
        said = [limits, self.model_dump(mode="json", include=parts)]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @cached_property
    def id(self) -> str:
        """`version@digest`: what decisions, manifests and edits say of their policy."""
        return f"{self.version}@{self.digest[:16]}"

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_files(cls, data: Any) -> Any:
        """Files from before policies named their risks had weights of nudity alone."""
        if isinstance(data, dict):  # what a screening has written down is a policy, too
            data = {name: value for name, value in data.items() if name != "digest"}
        if isinstance(data, dict) and "nudity_weights" in data:
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
        for one in self.combinations:
            if missing := set(one.above) - set(self.risks):
                raise ValueError(f"the combination {one.name} names no class: {min(missing)}")
        return self

    def risk(self, scores: Mapping[str, Values], names: Iterable[str] | None = None) -> ImageRisk:
        """Combine label scores (of the policy's classifiers, label -> [N]) into risks.

        A score that is missing or outside of [0, 1] is NaN.

        Args:
            names: the risks that are wanted; all there are where none are given.

        Raises:
            GateError: there is no score at all.
        """
        if not scores:
            raise GateError("no classifier has given a score")
        # what is no score, because nobody gave it or it is outside of its range, lets nothing pass
        scores = {label: np.where((v >= 0) & (v <= 1), v, np.nan) for label, v in scores.items()}
        zeros = np.zeros_like(next(iter(scores.values())))
        nothing = np.full_like(zeros, np.nan)
        wanted = risks() if names is None else names

        def largest(weights: Mapping[str, float], default: Values) -> Values:
            parts = [weight * scores.get(label, nothing) for label, weight in weights.items()]
            found: Values = np.maximum.reduce(parts) if parts else default  # keeps NaN
            return found

        def columns(found: Iterable[Values]) -> Values:
            own = list(found)
            return np.stack(own, 1) if own else np.zeros((len(zeros), 0), np.float32)

        found = {name: largest(self.risks.get(name, {}), zeros) for name in wanted}
        parts = self.parts.values()
        look = Look(
            exposure=largest(self.exposure_weights, zeros),
            person=largest(self._persons(), zeros + 1),
            face=largest(dict.fromkeys(self.face_labels, 1.0), zeros + 1),
            sexual=columns(largest(weights, zeros) for weights in self.risks.values()),
            bare=columns(largest({one.bare: one.weight}, zeros) for one in parts),
            covered=columns(largest(one.cover, zeros) for one in parts),
        )
        return ImageRisk(found, look)

    def combined(self, scores: Mapping[str, NDArray[np.floating[Any]]]) -> list[Combination | None]:
        """The first combination that fires for each of N pairs or images, by their risks [N].

        Args:
            scores: risk -> the largest score [N] over the images that belong together.
        """
        count = len(next(iter(scores.values())))
        found: list[Combination | None] = [None] * count
        for one in self.combinations:
            # NaN is above every limit
            above = [~(scores[name] <= limit) for name, limit in one.above.items()]
            for index in np.flatnonzero(np.logical_and.reduce(above)):
                found[index] = found[index] or one
        return found

    def action(self, reason: str) -> Action:
        """What is done with what a risk or combination stops."""
        named = {f"{COMBINATION}{one.name}": one.action for one in self.combinations}
        return named.get(reason, self.actions.get(reason, "drop"))

    def _persons(self) -> dict[str, float]:
        """The labels that show a person: what is bare belongs to somebody, face or no face."""
        bare = self.exposure_weights if self.person_labels else ()
        return dict.fromkeys((*self.person_labels, *bare), 1.0)

    @property
    def class_limits(self) -> Values:
        """The limit [K] of each class for an image alone."""
        known = risks(self.classifiers)
        return np.array([self.thresholds[known[name].column] for name in self.risks], np.float32)

    def rise_max(self, categories: Sequence[str]) -> Values:
        """How far exposure may rise in pairs of these categories [P], person or not."""
        usual = self.thresholds[_EXPOSURE]
        limits = [self.thresholds.get(f"{_EXPOSURE}@{name}", usual) for name in categories]
        return np.array(limits, np.float32)

    def strictest(self, name: str, unmatchable: bool = False) -> float:
        """`limit` for what has no category, as edits of users: of all categories the lowest."""
        own = [v for key, v in self.thresholds.items() if key.startswith(f"{name}@")]
        return min([self.limit(name, unmatchable), *own])

    def limit(self, name: str, unmatchable: bool) -> float:
        """`nsfw_max` or another; the stricter one for images the hash gate cannot match."""
        usual = self.thresholds.get(name, 1.0)
        return min(usual, self.thresholds.get(name + _UNMATCHABLE, usual)) if unmatchable else usual


def load_policy(name: str) -> Policy:
    """A packaged policy by name (`strict`, `research`, …), or a file by path.

    `default` is strict. Files are `.yaml`, or `.json` in the form of before.

    Raises:
        RecipeError: no such policy, or a file that is not one; it says which key is wrong.
    """
    from kontext.errors import CatalogError
    from kontext.store.catalog.views import check_thresholds

    text, suffix = _text(name)
    try:
        policy = Policy.model_validate(fields_of(text, suffix))
        check_thresholds(policy.thresholds)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RecipeError(f"policy {name}: {where}: {first['msg']}") from error
    except (CatalogError, ValueError, RecursionError) as error:
        raise RecipeError(f"policy {name}: {error}") from error
    _check_classes(name, policy)
    return policy


def _check_classes(name: str, policy: Policy) -> None:
    """Every risk has its classifier and limit, every classifier its risks. Raises RecipeError."""
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


def _text(name: str) -> tuple[str, str]:
    """The policy's text, and its form: `.yaml` or `.json`. Raises RecipeError."""
    folder = resources.files("kontext.safety").joinpath("policies")
    if name.endswith((".yaml", ".yml", ".json")):
        try:
            text = expanded(name).read_text("utf-8")
        except OSError as error:
            raise RecipeError(f"policy {name} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RecipeError(f"policy {name} is not text") from error
        return text, ".json" if name.endswith(".json") else ".yaml"
    packaged = folder.joinpath(f"{_SAME.get(name, name)}.yaml")
    if packaged.is_file():
        return packaged.read_text("utf-8"), ".yaml"
    known = ", ".join(packaged_policies())
    raise RecipeError(f"unknown policy '{name}' (known: {known}, or a path to a .yaml file)")


def packaged_policies() -> list[str]:
    """Names of the policies that are shipped."""
    folder = resources.files("kontext.safety").joinpath("policies")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir())


def fingerprint(config: ScreenConfig | CaptionConfig, home: Path | None = None) -> str:
    """SHA-256 of the policy that the section names: it is part of what screening makes.

    Raises:
        RecipeError: there is no such policy.
    """
    return load_policy(config.policy).digest


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
    may_pass_all: bool = False,
) -> float:
    """The pass rate of a filter; an inert one stops the run.

    A score that may rightly be the same for all items does not have to vary (`varies`), and one
    that has no limit, or a source as clean as that, may let all of them pass (`may_pass_all`).

    Published pipelines have shipped filters whose score was always 1.0, so this is an error here.

    Raises:
        FilterError: over at least 1,000 items the score never varies, or none or all pass.
        CanaryError: the score of a `safety` filter never varies, so it keeps nothing out. (Where
            nothing passes, the limit may be somebody's choice, and nothing unsafe gets in.)
    """
    finite = values[np.isfinite(values)]
    rate = float(passed.mean()) if len(passed) else 1.0
    if len(values) >= INERT_FROM:
        if not len(finite) or (varies and finite.std() < 1e-7):
            constant = f"its score is constant over {len(values)}"
            if safety:
                raise CanaryError(f"filter {name} is broken: {constant}")
            raise FilterError(name, constant)
        if rate == 0.0:
            raise FilterError(name, f"none of {len(values)} items passes")
        if rate == 1.0 and not may_pass_all:
            raise FilterError(
                name,
                f"all of {len(values)} items pass: where that is right, name it in "
                "screen.may_pass_all",
            )
    return rate
