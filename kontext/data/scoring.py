"""Scores of pictures before anything of them is kept: what the policy refuses never is.

A picture that has passed the hash gate is shown to the policy's classifiers, whole and in every
crop that stages read. One that is refused leaves what a hit of the gate leaves: a decision and a
reject, both with an HMAC. The scores of the others are kept beside them, so that nobody scores a
picture twice. What a policy puts in quarantine is kept: people look at it, and stage screen keeps
it out of everything else.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kontext.data.forms import Crops
from kontext.data.pixels import Pixels
from kontext.data.sources import external
from kontext.data.sources import modules_named as sources_named
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import prove, score_images
from kontext.safety.ids import NO_SCORE, Check, Decision, Outcome, Reason
from kontext.safety.own_work import is_own
from kontext.safety.policy import COMBINATION, Policy, load_policy
from kontext.safety.screening import stopped
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.objects import ObjectStore
from schemas.discovery import plugins
from schemas.risks import risks
from schemas.sections.data import IngestConfig
from schemas.tables import IMAGE_SCORES

FILE = "scored_by.json"


def modules_named(config: IngestConfig) -> list[str]:
    """Modules of what ingest's section names: the sources, and the classifiers of its policy."""
    found = plugins("kontext.safety.classifiers", "load")
    names = load_policy(config.policy).classifiers
    return [*sources_named(config), *(found[name].__name__ for name in names)]


def fingerprint(config: IngestConfig, home: Path | None = None) -> str:
    """SHA-256 of what the section points to outside of it, and of the policy's say on pictures.

    Raises:
        RecipeError: there is no such policy.
        OSError, GateError: see `kontext.data.sources.external.fingerprint`.
    """
    said = external.fingerprint(config, home) + load_policy(config.policy).of_images
    return hashlib.sha256(said.encode()).hexdigest()


Refusal = tuple[str, Outcome, str, float, float]  # provider, outcome, reason, score, limit


class Scored(NamedTuple):
    """What the policy's classifiers say of a picture."""

    values: list[float]  # form by form, each label of each classifier; NaN where it has no score
    refusal: Refusal | None

    def decision(self, subject: str, policy: str) -> Decision:
        """The row of a refusal."""
        assert self.refusal is not None
        provider, outcome, reason, score, limit = self.refusal
        check = Check.CLASSIFIER
        return Decision("image", subject, check, provider, outcome, reason, policy, score, limit)


class Scorer:
    """Judges pictures by themselves, as stage screen judges them.

    Raises:
        GateError: a classifier is not installed.
        CanaryError: one does not tell benign pictures apart.
    """

    def __init__(self, policy: Policy) -> None:
        """Load the classifiers, and have each prove that it works."""
        self.policy = policy
        self._classifiers = [load_classifier(name) for name in policy.classifiers]
        self._versions = {one.name: one.version for one in self._classifiers}
        self.prove()

    def prove(self) -> None:
        """Raise CanaryError where one does not work (any more)."""
        for classifier in self._classifiers:
            prove(classifier)

    def __call__(self, forms: Sequence[Pixels], plain: bool) -> Scored:
        """Score a picture's forms, each [H, W, 3]; `plain` ones are under the stricter limits.

        Raises:
            GateError: the policy stops the run on it.
        """
        scores: dict[str, NDArray[np.float32]] = {}
        for classifier in self._classifiers:
            scores |= score_images(classifier, forms)
        values = np.stack([scores[label] for _, label in labels(self.policy)], 1)
        return Scored(values.reshape(-1).tolist(), self._refusal(scores, plain))

    def _refusal(self, scores: dict[str, NDArray[np.float32]], plain: bool) -> Refusal | None:
        worst = {label: own.max(keepdims=True) for label, own in scores.items()}  # keeps NaN
        policy = self.policy
        risk = policy.risk(worst, policy.risks)
        for name in policy.risks:
            of, (value,) = risks(policy.classifiers)[name], risk.scores[name]
            limit, provider = policy.limit(of.column, plain), self._versions[of.classifier]
            if np.isnan(value):
                reason = str(Reason.CLASSIFIER_ERROR)
                return provider, Outcome.ERROR, reason, NO_SCORE, limit
            if value > limit and (outcome := stopped(policy, name)) is Outcome.DROP:
                return provider, outcome, name, float(value), limit
        (fires,) = policy.combined(risk.scores) if policy.combinations else (None,)
        if fires is not None:
            reason = f"{COMBINATION}{fires.name}"
            if (outcome := stopped(policy, reason)) is Outcome.DROP:
                return f"combinations@{policy.id}", outcome, reason, NO_SCORE, NO_SCORE
        return None


def labels(policy: Policy) -> list[tuple[str, str]]:
    """Classifier and label of each score of a form, in their order in `IMAGES.scores`."""
    return [(name, label) for name in policy.classifiers for label in load_classifier(name).labels]


def scored_by(policy: Policy, crops: Crops) -> dict[str, str]:
    """What decides a picture's scores: versions of the classifiers, and the crops that they saw."""
    versions = {name: load_classifier(name).version for name in policy.classifiers}
    return {**versions, "sizes": repr(crops.buckets)}


def own_scores(
    ingest: Artifact, wanted: dict[str, str], objects: ObjectStore, home: Path
) -> pa.Table:
    """As `image_scores`, where this home has made the artifact: others are not believed."""
    own = is_own(objects, home, ingest.manifest)
    return image_scores(ingest, wanted) if own else IMAGE_SCORES.empty_table()


def image_scores(ingest: Artifact, wanted: dict[str, str]) -> pa.Table:
    """IMAGE_SCORES of an ingest artifact; none where others made them than `wanted` says."""
    if not ingest.names(FILE) or (said := ingest.json(FILE))["made_with"] != wanted:
        return IMAGE_SCORES.empty_table()
    names = [(row["classifier"], row["label"]) for row in said["labels"]]
    images = ingest.table("images").select(["pixel_id", "scores"]).combine_chunks()
    lists = images["scores"].combine_chunks()
    every, counts = lists.flatten().to_numpy(), np.asarray(lists.value_lengths()) // len(names)
    ends = pa.array(np.cumsum([0, *counts]), pa.int32())
    every = every.reshape(-1, len(names))
    firsts = ends.to_numpy()[:-1]
    parts = []
    for number, (classifier, label) in enumerate(names):
        values = np.ascontiguousarray(every[:, number])
        worst = np.maximum.reduceat(values, firsts) if len(values) else values  # keeps NaN
        columns = {
            "pixel_id": images["pixel_id"],
            "classifier": pa.repeat(classifier, len(images)),
            "label": pa.repeat(label, len(images)),
            "score": pa.array(worst, pa.float32()),
            "forms": pa.ListArray.from_arrays(ends, pa.array(values, pa.float32())),
        }
        parts.append(pa.table({name: columns[name] for name in IMAGE_SCORES.names}))
    return pa.concat_tables(parts).cast(IMAGE_SCORES) if parts else IMAGE_SCORES.empty_table()


def made_with(policy: Policy, crops: Crops) -> dict[str, Any]:
    """What `FILE` says of the scores of an ingest."""
    named = [{"classifier": name, "label": label} for name, label in labels(policy)]
    return {"made_with": scored_by(policy, crops), "labels": named}
