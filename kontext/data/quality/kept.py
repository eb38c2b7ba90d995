"""The small CLIP of a dataset's last version, for as long as it may be kept.

Trained again for a few new pictures it would give every pair another score, and pairs near a limit
would come and go with each version. So it is kept until more than a share of what it would learn
from is new to it; but only while all that it has learnt from is there: what is taken out of a
dataset, or is refused, is not learnt from any more, and what of its captions is refused neither.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import pyarrow as pa
import pyarrow.compute as pc

from kontext.models.features.clip import SmallScorer, load_scorer, saved_towers
from kontext.models.features.efficientnet import FeatureNet
from kontext.models.text.encoders import TextEncoder
from kontext.store.artifacts.artifact_store import Artifact
from schemas.sections.data import ScreenConfig
from schemas.tables import LEARNT

FILE, COUNT = "learnt.parquet", "clip_learnt"  # rows of it, as a metric: some may be taken out
_SETTINGS = ("clip_steps", "clip_batch", "seed")  # of the training


@dataclass(frozen=True)
class KeptClip:
    """A scorer that an earlier artifact holds."""

    scorer: SmallScorer
    learnt: pa.Table  # LEARNT: what it was trained with, whichever artifact that was
    loss: float  # of that training
    artifact: str  # that holds it: stage/digest
    new: float  # share of what it would learn from now that is new to it, 0 to 1


def learnt_table(ids: Sequence[str], words: Sequence[Sequence[str]]) -> pa.Table:
    """LEARNT of images and their words."""
    coded = [blake2b(json.dumps(said).encode(), digest_size=16).digest() for said in words]
    return pa.table([pa.array(ids, pa.string()), pa.array(coded, pa.binary(16))], LEARNT)


def kept_clip(
    before: Sequence[Artifact],
    learnt: pa.Table,
    let_in: pa.Array,
    config: ScreenConfig,
    net: FeatureNet,
    encoder: TextEncoder,
    unsaid: pa.ChunkedArray | None = None,
) -> KeptClip | None:
    """The first of the artifacts' scorers that may be kept; None where one has to be trained.

    Args:
        before: artifacts of stage screen, made by today's code and with the same sizes.
        learnt: what a new one would be trained with.
        let_in: ids of the images that the policy does not refuse.
        net, encoder: the towers.
        unsaid: ids of images of which a caption was refused.
    """
    for made in before if config.clip_keep else ():
        if not _as_today(made, config, (net.digest, encoder.digest)):
            continue
        was = made.table(FILE)
        whole = len(was) == made.manifest.metrics.get(COUNT)  # not after a sweep
        new = share_new(was, learnt, let_in, unsaid) if whole else None
        if new is None or new > config.clip_keep:
            continue
        loss = float(made.manifest.metrics["clip_loss"] or 0)
        scorer = load_scorer(made, net, encoder)
        return KeptClip(scorer, was, loss, f"{made.stage}/{made.digest}", new)
    return None


def _as_today(made: Artifact, config: ScreenConfig, towers: tuple[str, str]) -> bool:
    """Whether a scorer was trained as it would be today."""
    settings = made.manifest.config
    return (
        bool(made.names(FILE))
        and all(settings.get(name) == getattr(config, name) for name in _SETTINGS)
        and saved_towers(made) == towers
    )


def share_new(
    was: pa.Table, now: pa.Table, let_in: pa.Array, unsaid: pa.ChunkedArray | None = None
) -> float | None:
    """Share of `now`, as LEARNT, that is not in `was` with the same words: 0 to 1.

    None where something of `was` is not let in any more, or had other words than now and is among
    the `unsaid`: what is refused now may be what it had learnt.
    """
    there = pc.is_in(was["pixel_id"], value_set=let_in)
    if not pc.all(there).as_py() and len(was):
        return None
    place = pc.index_in(
        now["pixel_id"].combine_chunks(), value_set=was["pixel_id"].combine_chunks()
    )
    words = was["words"].combine_chunks().take(place)
    same = pc.equal(words, now["words"].combine_chunks()).fill_null(False)
    if unsaid is not None:
        asked = was["pixel_id"].filter(pc.is_in(was["pixel_id"], value_set=unsaid.combine_chunks()))
        as_before = pc.is_in(asked, value_set=now["pixel_id"].combine_chunks().filter(same))
        if len(asked) and not pc.all(as_before).as_py():
            return None
    return 1 - (pc.sum(same).as_py() or 0) / max(1, len(now))
