"""Pictures that no model is shown: those that the policy refuses.

A model behind an address is somebody else's. So every picture is scored before one is sent, and the
scores are kept: stage screen takes them from there, and no picture is scored twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc

from kontext.engine.stage import ChunkMap
from kontext.safety import screening
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import prove
from kontext.safety.policy import fingerprint, load_policy
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import read_parquet
from schemas.discovery import plugins
from schemas.sections.data import CaptionConfig
from schemas.tables import IMAGE_SCORES

__all__ = ["MADE_WITH", "SCORES", "Unsent", "classifiers", "fingerprint", "unsent"]

SCORES, MADE_WITH = "image_scores.parquet", "image_scores.json"
_FEW = 64  # images that are scored sooner than processes have started


@dataclass(frozen=True)
class Unsent:
    """What the image screen says of all pictures of an ingest artifact."""

    scores: pa.Table  # IMAGE_SCORES
    versions: dict[str, str]  # of the classifiers
    refused: frozenset[str]  # pixel ids


def classifiers(config: CaptionConfig) -> list[ModuleType]:
    """Modules of the classifiers that the section's policy needs."""
    found = plugins("kontext.safety.classifiers", "load")
    return [found[name] for name in load_policy(config.policy).classifiers]


def unsent(
    ingest: Artifact,
    config: CaptionConfig,
    map_chunks: ChunkMap,
    processes: int,
    earlier: Sequence[Artifact] = (),
) -> Unsent:
    """Score every picture; `earlier` captions (newest first) may hold scores already.

    Raises:
        RecipeError: unknown policy.
        GateError: a classifier is not installed, or (CanaryError) does not work.
    """
    policy = load_policy(config.policy)
    names = policy.classifiers
    versions = {name: load_classifier(name).version for name in names}
    for name in names:
        prove(load_classifier(name))
    held = next((a.table(SCORES) for a in earlier if made_with(a) == versions), _NONE)
    known = screening.whole_scores(held, names)
    pixels = [ingest.stored(name) for name in ingest.names("pixels/")]
    chunks = screening.plan_scores(pixels, names, known)
    few = sum(map(len, chunks)) <= _FEW
    results = map_chunks(screening.score_chunk, chunks, 1 if few else processes)
    new = pa.concat_tables([_NONE, *(result["scores"] for result in results)])
    old = held.filter(pc.is_in(held["pixel_id"], value_set=pa.array(sorted(known), pa.string())))
    files = [read_parquet(one.path(), ["pixel_id"])["pixel_id"].to_pylist() for one in pixels]
    scores = screening.in_order(pa.concat_tables([old, new]), files, names)
    for some in (scores, new):
        screening.check_scores(some)
    ids = [pixel_id for of in files for pixel_id in of]
    risk = policy.risk(screening.label_arrays(scores, ids), policy.risks)
    refused = screening.refused(risk, screening.unmatchable(ingest.table("images"), ids), policy)
    return Unsent(scores, versions, frozenset(i for i, no in zip(ids, refused, strict=True) if no))


def made_with(captions: Artifact) -> dict[str, str] | None:
    """Versions of the classifiers whose scores a caption artifact holds; None where it has none."""
    if not captions.names(MADE_WITH):
        return None
    found: dict[str, str] = captions.json(MADE_WITH)
    return found


_NONE = IMAGE_SCORES.empty_table()
