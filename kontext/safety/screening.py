"""Screening in bulk: image scores in chunks, text reasons, and the decisions that follow."""

import io
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise, product
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kontext.errors import CanaryError, GateError
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import Pixels, Scores, prove, score_images
from kontext.safety.ids import Check, Decision, Outcome, Reason, subject_hmac
from kontext.safety.judged_texts import JudgedTexts
from kontext.safety.pdq import MIN_QUALITY
from kontext.safety.policy import ImageRisk, Policy
from kontext.safety.texts import judged_by
from kontext.store.artifacts.artifact_store import StoredFile
from kontext.store.parquet import read_parquet
from schemas.risks import risks
from schemas.tables import DECISIONS, IMAGE_SCORES

_LOG = logging.getLogger("kontext.safety")
CHUNK = 256
_TEXTS = 4096  # pairs whose texts are in memory at a time
ENOUGH = 32  # different images that no working classifier gives one score
Read = Callable[[Pixels], Sequence[Pixels]]
PASS_SAMPLED_IN = 50  # of the passes one in fifty is written down; every drop is


@dataclass(frozen=True)
class ScoreChunk:
    """Rows of pixels files, the classifiers to run, and what gives the crops of a picture."""

    parts: tuple[tuple[StoredFile, tuple[int, ...]], ...]
    classifiers: tuple[str, ...]
    crops: Read

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    def files(self) -> list[Path]:
        """The pixels, where they are in a folder and not in a bucket."""
        return [file.folder for file, _ in self.parts if file.folder is not None]

    def halves(self) -> "tuple[ScoreChunk, ScoreChunk] | None":
        """Two chunks of half the rows each; None for a single image."""
        middle = len(self) // 2
        if not middle:
            return None
        return self._cut(0, middle), self._cut(middle, len(self))

    def _cut(self, low: int, high: int) -> "ScoreChunk":
        """The rows from `low` to `high`."""
        parts, first = [], 0
        for file, rows in self.parts:
            own = rows[max(0, low - first) : max(0, high - first)]
            parts += [(file, own)] if own else []
            first += len(rows)
        return replace(self, parts=tuple(parts))

    def given_up(self, why: str) -> dict[str, pa.Table]:
        """No scores (NaN) of a single image that cost workers: it passes no limit."""
        ids = _rows(self).column("pixel_id").to_pylist()
        none = {
            name: {label: np.full(1, np.nan, np.float32) for label in load_classifier(name).labels}
            for name in self.classifiers
        }
        _LOG.error("an image gets no scores: %s", why)
        return {"scores": _scores_table(ids, [1], none)}


def plan_scores(
    files: Sequence[StoredFile],
    classifiers: tuple[str, ...],
    known: Container[str] = (),
    *,
    crops: Read,
) -> list[ScoreChunk]:
    """Chunks of at most 256 images over all pixels files, without those that are `known`.

    `crops` gives what is read of a picture [H, W, 3] beside all of it.

    Files with few images share a chunk: each has classifiers loaded and proved.
    """
    chunks: list[ScoreChunk] = []
    for file in files:
        ids = read_parquet(file.path(), ["pixel_id"])["pixel_id"].to_pylist()
        rows = tuple(row for row, pixel_id in enumerate(ids) if pixel_id not in known)
        for start in range(0, len(rows), CHUNK):
            part = (file, rows[start : start + CHUNK])
            if chunks and len(chunks[-1]) + len(part[1]) <= CHUNK:
                chunks[-1] = replace(chunks[-1], parts=(*chunks[-1].parts, part))
            else:
                chunks.append(ScoreChunk((part,), classifiers, crops))
    return chunks


def score_chunk(chunk: ScoreChunk) -> dict[str, pa.Table]:
    """Score one chunk with every classifier: `scores` in the IMAGE_SCORES schema.

    Raises CanaryError where a classifier does not work, or not any more after the last image.
    """
    for name in chunk.classifiers:
        prove(load_classifier(name))
    table = _rows(chunk)
    read = []
    for png in table["png"].to_pylist():
        whole = _decode(png)
        read.append([whole, *chunk.crops(whole)])
    images, counts = [form for forms in read for form in forms], [len(forms) for forms in read]
    scores = {name: score_images(load_classifier(name), images) for name in chunk.classifiers}
    for name in chunk.classifiers:
        prove(load_classifier(name))
    return {"scores": _scores_table(table["pixel_id"].to_pylist(), counts, scores)}


def _rows(chunk: ScoreChunk) -> pa.Table:
    return pa.concat_tables(
        read_parquet(file.path()).take(pa.array(rows, pa.int64())) for file, rows in chunk.parts
    )


def _scores_table(
    ids: Sequence[str], counts: Sequence[int], scores: Mapping[str, Scores]
) -> pa.Table:
    """IMAGE_SCORES of these images: label by label of each classifier.

    Of each image there are so many forms, all of it first; its score is the largest of theirs.
    """
    starts = np.cumsum([0, *counts])
    columns: dict[str, list[Any]] = {name: [] for name in IMAGE_SCORES.names}
    for name, own in scores.items():
        for label, values in own.items():
            columns["pixel_id"] += ids
            columns["classifier"] += [name] * len(ids)
            columns["label"] += [label] * len(ids)
            columns["score"] += np.maximum.reduceat(values, starts[:-1]).tolist()  # keeps NaN
            columns["forms"] += [values[low:high].tolist() for low, high in pairwise(starts)]
    return pa.table(columns, schema=IMAGE_SCORES)


def _decode(png: bytes) -> Pixels:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def whole_scores(scores: pa.Table, classifiers: Iterable[str]) -> set[str]:
    """Images that every label of these classifiers has a score of in IMAGE_SCORES rows."""
    labels = sum(len(load_classifier(name).labels) for name in classifiers)
    good = scores.filter(pc.invert(pc.is_nan(scores["score"])))
    counts = good.group_by("pixel_id").aggregate([("score", "count")])
    return set(counts.filter(pc.equal(counts["score_count"], labels))["pixel_id"].to_pylist())


def check_scores(scores: pa.Table) -> None:
    """Raise CanaryError where a label's score is the same for all images, or there is none.

    `scores` are IMAGE_SCORES rows of a whole run, or of what is new in it: others would differ
    from what a broken classifier says. Of fewer than 32 images nothing is said.
    """
    labels = scores.group_by(["classifier", "label"])
    found = labels.aggregate([("score", "count")])
    numbers = scores.filter(pc.invert(pc.is_nan(scores["score"])))
    good = numbers.group_by(["classifier", "label"]).aggregate([("score", "min_max")])
    spread = {(row["classifier"], row["label"]): row["score_min_max"] for row in good.to_pylist()}
    for row in found.to_pylist():
        name, label, count = row["classifier"], row["label"], row["score_count"]
        ends = spread.get((name, label))
        if count < ENOUGH or (ends is not None and ends["min"] < ends["max"]):
            continue
        what = "no score" if ends is None else "one and the same score"
        raise CanaryError(f"classifier {name} is broken: {what} {label} for {count:,} images")


def in_order(
    scores: pa.Table, files: Sequence[Sequence[str]], classifiers: Sequence[str]
) -> pa.Table:
    """IMAGE_SCORES rows of the images in pixels `files` as one run over all of them gives them.

    Rows of other images are left out.
    """
    blocks = [of[start : start + CHUNK] for of in files for start in range(0, len(of), CHUNK)]
    block = np.repeat(np.arange(len(blocks)), [len(one) for one in blocks])
    ids = [pixel_id for one in blocks for pixel_id in one]
    labels = [(name, label) for name in classifiers for label in load_classifier(name).labels]
    rank = {key: number for number, key in enumerate(labels)}
    place = pc.index_in(scores["pixel_id"], value_set=pa.array(ids, pa.string())).fill_null(-1)
    image = place.to_numpy().astype(np.int64)
    # every chunk has few runs of one label, but rows may come in any order
    names = scores["classifier"].dictionary_encode().unify_dictionaries().combine_chunks()
    texts = scores["label"].dictionary_encode().unify_dictionaries().combine_chunks()
    known = np.full((len(names.dictionary), len(texts.dictionary)), -1)
    for (row, name), (column, text) in product(
        enumerate(names.dictionary.to_pylist()), enumerate(texts.dictionary.to_pylist())
    ):
        known[row, column] = rank.get((name, text), -1)
    label = known[names.indices.to_numpy(), texts.indices.to_numpy()]
    mine = np.flatnonzero((image >= 0) & (label >= 0))
    order = np.lexsort((image[mine], label[mine], block[image[mine]]))
    return scores.take(pa.array(mine[order]))


def unmatchable(images: pa.Table, ids: Sequence[str]) -> NDArray[np.bool_]:
    """Which images [M], in the order of `ids`, are too plain for the hash gate, by IMAGES.

    One is, where all of it is, or a crop that is read of it.
    """
    columns = images.select(["pixel_id", "pdq_quality", "crops"]).to_pydict()
    quality = {
        pixel_id: min([own, *(crop["pdq_quality"] for crop in crops or ())])
        for pixel_id, own, crops in zip(*columns.values(), strict=True)
    }
    return np.array([quality[pixel_id] < MIN_QUALITY for pixel_id in ids], bool)


def refused(risk: ImageRisk, plain: NDArray[np.bool_], policy: Policy) -> NDArray[np.bool_]:
    """Which images [M] the policy refuses by themselves; `plain` are under stricter limits.

    Combinations count too: every pair with such an image is above them.
    """
    found = np.zeros(len(plain), bool)
    for name in policy.risks:
        column = risks(policy.classifiers)[name].column
        limits = np.where(plain, policy.limit(column, True), policy.limit(column, False))
        found |= ~(risk.scores[name] <= limits)  # NaN too
    if policy.combinations and len(plain):
        found |= np.array([one is not None for one in policy.combined(risk.scores)])
    return found


def text_reasons(
    rows: Iterable[Sequence[str]], judged: JudgedTexts | None = None
) -> list[Reason | None]:
    """The strictest reason among several texts per pair; each distinct text is checked once.

    Only some rows are in memory at a time. Raises GateError where the classifier cannot be asked.
    """
    judged, rest, strict = judged or JudgedTexts(None), iter(rows), Reason.TEXT_MINOR_SEXUAL
    found: list[Reason | None] = []
    while part := list(islice(rest, _TEXTS)):
        checked = judged(text for texts in part for text in texts)
        for texts in part:
            reasons = [reason for text in texts if (reason := checked[text]) is not None]
            found.append(strict if strict in reasons else next(iter(reasons), None))
    return found


def image_decisions(
    pixel_ids: Sequence[str],
    risk: ImageRisk,
    unmatchable: NDArray[np.bool_],
    policy: Policy,
    versions: dict[str, str],
    key: bytes,
) -> list[Decision]:
    """One row per stopped image and risk, and one in fifty of the passes.

    Raises:
        GateError: the policy stops the run on one of them.
    """
    found = []
    for name in policy.risks:
        risk_of = risks(policy.classifiers)[name]
        classifier, column = risk_of.classifier, risk_of.column
        for pixel_id, value, strict in zip(pixel_ids, risk.scores[name], unmatchable, strict=True):
            limit = policy.limit(column, bool(strict))
            outcome, reason = Outcome.PASS, ""
            if np.isnan(value):
                outcome, reason = Outcome.ERROR, Reason.CLASSIFIER_ERROR
            elif value > limit:
                outcome, reason = stopped(policy, name), name
            elif not sampled(pixel_id):
                continue
            found.append(
                Decision(
                    subject_kind="image",
                    subject_hmac=subject_hmac(pixel_id, key),
                    check=Check.CLASSIFIER,
                    provider=versions[classifier],
                    outcome=outcome,
                    reason=reason,
                    policy_version=policy.id,
                    score=-1.0 if np.isnan(value) else float(value),
                    threshold=limit,
                )
            )
    return found


def pair_decisions(
    pair_ids: Sequence[str],
    texts: Sequence[Reason | None],
    pairs: Sequence[str | None],
    rises: NDArray[np.floating],
    policy: Policy,
    key: bytes,
) -> list[Decision]:
    """One row per pair that a text or pair rule stopped, and one in fifty of the passes.

    Raises:
        GateError: the policy stops the run on one of them.
    """
    found = []
    limit, texts_by, pairs_by = policy.ncii.exposure_rise_max, judged_by(), f"ncii@{policy.id}"
    for pair_id, text, pair, rise in zip(pair_ids, texts, pairs, rises, strict=True):
        if text is None and pair is None and not sampled(pair_id):
            continue
        subject = subject_hmac(pair_id, key)
        for check, kind, reason, provider in (
            (Check.TEXT_RULE, "text", text, texts_by),
            (Check.PAIR_RULE, "pair", pair, pairs_by),
        ):
            if reason is None and not sampled(pair_id):
                continue
            scored = check is Check.PAIR_RULE and not np.isnan(rise)
            found.append(
                Decision(
                    subject_kind=kind,
                    subject_hmac=subject,
                    check=check,
                    provider=provider,
                    outcome=Outcome.PASS if reason is None else stopped(policy, reason),
                    reason=reason or "",
                    policy_version=policy.id,
                    score=float(rise) if scored else -1.0,
                    threshold=limit if scored else -1.0,
                )
            )
    return found


def stopped(policy: Policy, reason: str) -> Outcome:
    """What becomes of an image or pair that a rule stops.

    Raises:
        GateError: the policy stops the run.
    """
    action = policy.action(reason)
    if action == "stop_run":
        raise GateError(f"policy {policy.version} stops the run: something is above {reason}")
    return Outcome.QUARANTINE if action == "quarantine" else Outcome.DROP


def sampled(subject_id: str) -> bool:
    """Whether a pass of this subject is written down: a stable one in fifty."""
    return int(subject_id[:8], 16) % PASS_SAMPLED_IN == 0


def decisions_table(rows: Iterable[Decision]) -> pa.Table:
    """DECISIONS table, sorted so that it does not depend on the order of work."""
    rows = sorted(rows, key=attrgetter("check", "provider", "outcome", "subject_hmac"))
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=DECISIONS)
