"""The form of a policy file: one commented YAML, `policies/strict.yaml` explains every key.

A policy written before there were YAML files (`.json`) is read as it was; `kontext.safety.policy`
knows both.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from kontext.safety.ncii import NciiLimits
from schemas.yaml_text import YamlError, parse

Action = Literal["drop", "quarantine", "stop_run"]
# above 0 and below 1: a limit of 1 stops nothing
Limit = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Part(BaseModel):
    """A part of a policy: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RiskClass(Part):
    """One kind of what is kept out."""

    labels: dict[str, Weight] = Field(min_length=1)
    limit: Limit
    limit_unmatchable: Limit | None = None
    limit_by_category: dict[str, Limit] = {}  # relation class -> limit
    action: Action = "drop"

    def limits(self, column: str) -> dict[str, float]:
        """Thresholds of the acceptance view, `column` is `<class>_max`."""
        found = {column: self.limit}
        if self.limit_unmatchable is not None:
            found[f"{column}_unmatchable"] = self.limit_unmatchable
        return found | {f"{column}@{name}": v for name, v in self.limit_by_category.items()}


class Combination(Part):
    """Several classes at once, each above a limit of its own: the reason is `combination_NAME`."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$")
    above: dict[str, Limit] = Field(min_length=2)
    action: Action = "drop"


class Exposure(Part):
    """What counts as exposure, and how far it may rise."""

    labels: dict[str, Weight] = Field(min_length=1)
    rise_max: Limit
    rise_max_by_category: dict[str, Limit] = {}


class BodyPart(Part):
    """A part of the body: the label of it bare, and of what covers it where there is one."""

    bare: str
    covered: str = ""
    weight: Weight = 1.0

    @property
    def cover(self) -> dict[str, float]:
        """The label that covers it, with the part's weight."""
        return {self.covered: self.weight} if self.covered else {}


class PairRule(NciiLimits):
    """The pair rule's limits, none of which may be left out, and the labels that it reads."""

    person_labels: tuple[str, ...]
    face_labels: tuple[str, ...]
    parts: dict[str, BodyPart]
    less_clothed_max: Limit
    face_min: Limit
    identity_rise_max: Limit
    body_score_max: Limit
    body_changed_max: Limit

    @field_validator("parts")
    @classmethod
    def _one_counts_whole(cls, parts: dict[str, BodyPart]) -> dict[str, BodyPart]:
        """A rule is made milder by its limits; weights tell parts apart."""
        if parts and max(one.weight for one in parts.values()) != 1:
            raise ValueError("the largest weight must be 1")
        return parts


class Texts(Part):
    """The classifier of texts: a score above the limit is stopped. The rules ask no policy."""

    limit: Limit = 0.5
    limit_joined: Limit = 0.75  # of several turns together, which say more that is harmless


class Retention(Part):
    """How long a home keeps what edits leave behind."""

    edit_days: float = Field(30, gt=0, le=3650, allow_inf_nan=False)  # results, see safety.chains


class PolicyFile(Part):
    """A policy file of schema 1."""

    schema_: Literal[1] = Field(alias="schema")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str
    classifiers: tuple[str, ...] = Field(min_length=1)
    classes: dict[str, RiskClass] = Field(min_length=1)
    combinations: tuple[Combination, ...] = ()
    exposure: Exposure
    pair: PairRule
    texts: Texts = Texts()
    quality: dict[str, FiniteFloat]
    retention: Retention = Retention()

    def policy(self) -> dict[str, Any]:
        """The fields of `kontext.safety.policy.Policy`."""
        thresholds = dict(self.quality)
        for name, one in self.classes.items():
            thresholds |= one.limits(f"{name}_max")
        thresholds["exposure_delta_max"] = self.exposure.rise_max
        for category, limit in self.exposure.rise_max_by_category.items():
            thresholds[f"exposure_delta_max@{category}"] = limit
        return {
            "version": self.version,
            "description": self.description.strip(),
            "classifiers": self.classifiers,
            "thresholds": thresholds,
            "risks": {name: one.labels for name, one in self.classes.items()},
            "actions": {name: one.action for name, one in self.classes.items()},
            "combinations": [one.model_dump() for one in self.combinations],
            "exposure_weights": self.exposure.labels,
            "person_labels": self.pair.person_labels,
            "face_labels": self.pair.face_labels,
            "parts": self.pair.parts,
            "ncii": self.pair.model_dump(exclude={"person_labels", "face_labels", "parts"}),
            "texts": self.texts.model_dump(),
            "retention": self.retention.model_dump(),
        }


def fields_of(text: str, suffix: str) -> Any:
    """The fields of a policy, as a file of this suffix says them.

    Raises:
        ValueError: it is not such a file; pydantic's ValidationError names the key.
    """
    if suffix == ".json":
        return json.loads(text)
    try:
        data = parse(text).data
    except YamlError as error:
        raise ValueError(f"line {error.line}: {error}") from error
    if not isinstance(data, dict):
        raise ValueError("not a mapping of keys")
    if "schema" not in data:
        old = "thresholds" in data or "risks" in data
        told = "it is in the form of earlier JSON files: end its name in .json, or bring it into"
        raise ValueError(f"{told if old else 'write it in'} that of schema 1 (docs/safety.md)")
    return PolicyFile.model_validate(data).policy()
