"""All scores of a table of pairs in one table, with the reasons of the text and pair rules."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kontext.data.images import ImageBank
from kontext.data.quality.clip import TrainedClip, score_pairs, train_on
from kontext.data.quality.known import Known, places
from kontext.data.quality.pair_rule import judge_pairs
from kontext.data.quality.pairs import Edges, Values, edge_quality, kept_changes, lying
from kontext.safety.ids import Reason
from kontext.safety.judged_texts import JudgedTexts
from kontext.safety.pdq import distances
from kontext.safety.policy import ImageRisk, Policy
from kontext.safety.screening import refused as refused_images
from kontext.safety.screening import text_reasons as text_reasons  # and this
from kontext.store.artifacts.artifact_store import Artifact
from schemas.risks import risks
from schemas.sections.data import ScreenConfig
from schemas.tables import CAPTION_TEXTS, REFUSED, pair_scores

_AT_A_TIME = 4096
_REFUSED = {str(reason): reason for reason in Reason if reason.startswith("text_")}

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class ScreenedPairs:
    """Scores of P pairs in the order of the pairs table."""

    scores: pa.Table  # `pair_scores` of the risks that the named classifiers find
    text: list[Reason | None]
    pair: list[str | None]  # of the pair rule, or combination_NAME
    rise: NDArray[np.float32]  # exposure of the target minus the edited image's, [P]
    trained: TrainedClip
    refused: NDArray[np.bool_]  # images [M] that the policy refuses by themselves

    def refused_table(self, ids: Sequence[str]) -> pa.Table:
        """REFUSED of the images, whose `ids` [M] these are."""
        rows = [pixel_id for pixel_id, no in zip(ids, self.refused, strict=True) if no]
        return pa.table({"pixel_id": rows}, schema=REFUSED)


def screen_pairs(
    bank: ImageBank,
    images: pa.Table,
    pairs: pa.Table,
    captions: pa.Table,
    risk: ImageRisk,
    unmatchable: NDArray[np.bool_],
    policy: Policy,
    config: ScreenConfig,
    judged: JudgedTexts,
    progress: Progress = lambda done, total, message: None,
    known: Known | None = None,
    before: Sequence[Artifact] = (),
) -> ScreenedPairs:
    """Score every pair.

    Args:
        bank: pixels; `risk` and `unmatchable` are per image, in its order. `risk` has those that
            the classifiers of `config` find.
        images, pairs, captions: tables IMAGES, PAIRS and CAPTIONS.
        judged: what judges texts, at the policy's limit.
        progress: called with (done, total, what is being done).
        known: what an earlier screening holds, to be taken from there.
        before: screenings of the dataset's last version, whose scorer may be kept.
    """
    known = known or Known()
    edges = Edges.of(pairs, bank.ids)
    progress(0, 4, "text rules")
    text = _text_reasons(_aligned(pairs, captions), judged)
    captions, unsaid = _said(pairs, captions, text)
    words = _aligned(pairs, captions)
    refused = refused_images(risk, unmatchable, policy)
    pair, rise = judge_pairs(bank, pairs, edges, text, risk, refused, policy)
    progress(1, 4, "pixel quality")
    quality = _quality(pairs, images, bank, known)
    progress(2, 4, "the small CLIP")
    trained = train_on(bank, images, pairs, captions, config, known, refused, before, unsaid)
    progress(3, 4, "CLIP scores")
    columns = {
        "pair_id": pairs["pair_id"].combine_chunks(),
        **{f"{name}_max": edges.over_images(values) for name, values in risk.scores.items()},
        "exposure_delta": rise,
        "unmatchable": edges.over_images(unmatchable.astype(np.float32)) > 0,
        "text_reason": [str(reason or "") for reason in text],
        "ncii_reason": [str(reason or "") for reason in pair],
        **score_pairs(trained, edges, words),
        **quality,
    }
    schema = pair_scores(risks(config.classifiers).values())
    unknown = _without_words(edges, words)
    unknown |= {name: np.isnan(columns[name]) for name in ("misalignment", "sharpness")}
    arrays = [
        pa.array(columns[field.name], mask=unknown.get(field.name)).cast(field.type)
        for field in schema
    ]
    progress(4, 4, "scored")
    return ScreenedPairs(pa.table(arrays, schema=schema), text, pair, rise, trained, refused)


def _quality(pairs: pa.Table, images: pa.Table, bank: ImageBank, known: Known) -> dict[str, Values]:
    """The scores that pixels alone decide, by column [P]; a known pair's are taken as they are."""
    ids = pairs["pair_id"].combine_chunks()
    place = np.full(len(ids), -1) if known.pairs is None else places(ids, known.pairs, "pair_id")
    new = np.flatnonzero(place < 0)
    edges = Edges.of(pairs.take(pa.array(new)), bank.ids)
    quality, hashes = edge_quality(edges, bank), _hashes(images, bank)
    misalignment, status, sharpness = lying(edges, bank)
    pdq = distances(hashes[edges.context], hashes[edges.target[edges.pair]])
    made = {
        "ssim": edges.largest(quality.ssim, 0.0),
        "l1": edges.smallest(quality.l1, 1.0),
        "changed_frac": edges.smallest(quality.changed_frac, 1.0),
        "largest_blob": edges.smallest(quality.largest_blob, 1.0),
        "change_kept": kept_changes(edges, bank),
        "misalignment": misalignment,
        "misalignment_status": status,
        "sharpness": sharpness,
        "pdq_distance": edges.smallest(pdq, 256.0),
    }
    found = {name: np.empty(len(ids), values.dtype) for name, values in made.items()}
    old = np.flatnonzero(place >= 0)
    for name, column in found.items():
        column[new] = made[name]
        if known.pairs is not None:
            column[old] = known.pairs[name].to_numpy(zero_copy_only=False)[place[old]]
    return {**found, "pdq_distance": found["pdq_distance"].astype(np.uint16)}


def _without_words(edges: Edges, words: pa.Table) -> dict[str, NDArray[np.bool_]]:
    """The scores that compare with a caption -> pairs [P] that have none to compare with."""
    target, context = (
        np.asarray(pc.equal(words[name], "")) for name in ("target_caption", "context_caption")
    )
    edits = np.bincount(edges.pair, minlength=len(words)) > 0
    return {"clip_t": target, "clip_dir": edits & (target | context)}


def _aligned(pairs: pa.Table, captions: pa.Table) -> pa.Table:
    """The texts and the status of every pair; empty strings where there is none."""
    ids = (table["pair_id"].combine_chunks() for table in (pairs, captions))
    place = pc.index_in(next(ids), value_set=next(ids))
    names = (*CAPTION_TEXTS, "status")
    return pa.table({name: captions[name].take(place).fill_null("") for name in names})


def _said(
    pairs: pa.Table, captions: pa.Table, text: Sequence[Reason | None]
) -> tuple[pa.Table, pa.ChunkedArray]:
    """CAPTIONS without the words that are refused: they are not learnt from, nor kept.

    And the ids of the images that they were about.
    """
    refused = pairs.filter(pa.array([reason is not None for reason in text], pa.bool_()))
    if not len(refused):
        return captions, refused["target_id"]
    theirs = pc.is_in(captions["pair_id"], value_set=refused["pair_id"].combine_chunks())
    for name in CAPTION_TEXTS:
        place = captions.schema.get_field_index(name)
        said = pc.if_else(theirs, "", captions[name])
        captions = captions.set_column(place, captions.schema.field(place), said)
    return captions, refused["target_id"]


def _text_reasons(words: pa.Table, judged: JudgedTexts) -> list[Reason | None]:
    """The strictest reason against the texts of each pair."""
    found = text_reasons(_texts(words), judged)
    # what stage caption has refused is not there any more, but why
    statuses = words["status"].to_pylist()
    return [_REFUSED.get(status, said) for status, said in zip(statuses, found, strict=True)]


def _texts(words: pa.Table) -> Iterator[tuple[str, ...]]:
    """The texts of one pair after the other; only some are objects at a time."""
    for batch in words.select(CAPTION_TEXTS).to_batches(max_chunksize=_AT_A_TIME):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _hashes(images: pa.Table, bank: ImageBank) -> NDArray[np.uint8]:
    """PDQ hashes uint8 [M, 32] in the order of the bank."""
    pdq = dict(zip(images["pixel_id"].to_pylist(), images["pdq"].to_pylist(), strict=True))
    joined = b"".join(pdq[pixel_id] for pixel_id in bank.ids)
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)
