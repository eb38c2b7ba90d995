"""Pictures that no model is shown: those that the policy refuses.

A model behind an address is somebody else's. So every picture is scored before one is sent, and the
scores are kept: stage screen takes them from there, and no picture is scored twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc

from kontext.data.forms import Crops, sure_scores
from kontext.data.scoring import own_scores as own_scores  # the stage calls it from here
from kontext.data.scoring import scored_by
from kontext.engine.stage import ChunkMap
from kontext.safety import screening
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import prove
from kontext.safety.image_risk import image_risk
from kontext.safety.policy import fingerprint, load_policy
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import read_parquet
from schemas.discovery import plugins
from schemas.sections.data import CaptionConfig, IngestConfig
from schemas.tables import IMAGE_SCORES

__all__ = ["MADE_WITH", "SCORES", "Unsent", "classifiers", "fingerprint", "unsent"]

OwnScores = Callable[[dict[str, str]], pa.Table]

SCORES, MADE_WITH = "image_scores.parquet", "image_scores.json"
_NONE = IMAGE_SCORES.empty_table()
_FEW = 64  # images that are scored sooner than processes have started


@dataclass(frozen=True)
class Unsent:
    """What the image screen says of all pictures of an ingest artifact."""

    scores: pa.Table  # IMAGE_SCORES
    made_with: dict[str, str]  # versions of the classifiers, and the sizes whose crops they saw
    refused: frozenset[str]  # pixel ids


def classifiers(config: CaptionConfig) -> list[ModuleType]:
    """Modules of the classifiers that the section's policy needs."""
    found = plugins("kontext.safety.classifiers", "load")
    return [found[name] for name in load_policy(config.policy).classifiers]


def unsent(
    ingest: Artifact,
    read: IngestConfig,
    config: CaptionConfig,
    map_chunks: ChunkMap,
    earlier: Sequence[Artifact] = (),
    ours: OwnScores = lambda _: _NONE,
) -> Unsent:
    """Score every picture and its crops; `earlier` captions (newest first) may hold scores.

    Args:
        read: the section of `ingest`, whose sizes say which crops are read.
        ours: gives the scores that ingest has made of just this (`scored_by`), if it has.

    Raises:
        RecipeError: unknown policy.
        GateError: a classifier is not installed, or (CanaryError) does not work.
    """
    policy = load_policy(config.policy)
    names = policy.classifiers
    for name in names:
        prove(load_classifier(name))
    crops, processes = Crops.of(read), read.processes
    by = scored_by(policy, crops)
    held = ours(by)
    if not len(held):
        held = next((a.table(SCORES) for a in earlier if made_with(a) == by), _NONE)
    known = screening.whole_scores(held, names)
    pixels = [ingest.stored(name) for name in ingest.names("pixels/")]
    chunks = screening.plan_scores(pixels, names, known, crops=crops)
    few = sum(map(len, chunks)) <= _FEW
    results = map_chunks(screening.score_chunk, chunks, 1 if few else processes)
    new = pa.concat_tables([_NONE, *(result["scores"] for result in results)])
    old = held.filter(pc.is_in(held["pixel_id"], value_set=pa.array(sorted(known), pa.string())))
    files = [read_parquet(one.path(), ["pixel_id"])["pixel_id"].to_pylist() for one in pixels]
    scores = screening.in_order(pa.concat_tables([old, new]), files, names)
    for some in (scores, new):
        screening.check_scores(some)
    ids = [pixel_id for of in files for pixel_id in of]
    images = ingest.table("images")
    sure_scores(scores, images)
    risk = image_risk(scores, ids, policy, policy.risks)
    refused = screening.refused(risk, screening.unmatchable(images, ids), policy)
    return Unsent(scores, by, frozenset(i for i, no in zip(ids, refused, strict=True) if no))


def made_with(captions: Artifact) -> dict[str, str] | None:
    """What made the scores that a caption artifact holds (`scored_by`); None where it has none."""
    if not captions.names(MADE_WITH):
        return None
    found: dict[str, str] = captions.json(MADE_WITH)
    return found
