"""The screen's small CLIP: trained on the ingested images' own words, then used to score pairs."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from kontext.data.images import ImageBank
from kontext.data.quality.kept import KeptClip, kept_clip, learnt_table
from kontext.data.quality.known import Keyed, Known, vectors
from kontext.data.quality.pairs import Edges, Values
from kontext.errors import GateError
from kontext.models.features.clip import SmallScorer, image_features, pair_scores, text_features
from kontext.models.features.clip_train import ClipData, retrieval, train_clip
from kontext.models.features.efficientnet import EMBEDDING_DIM, FeatureNet, load_features
from kontext.models.text.encoders import load_text_encoder
from kontext.store.artifacts.artifact_store import Artifact
from schemas.sections.data import ScreenConfig

Vectors = NDArray[np.float32]

_TEXTS_PER_IMAGE = 3  # captions that an image is trained with, besides its concept
_BLOCK, _PIXELS = 512, 1 << 24  # images whose pixels are in memory at once, and those pixels
_PAIRS = 32_768  # pairs whose embeddings are in memory at once
_LAST = 20  # steps whose mean loss is told
_HELD_OUT_IN = 10  # every tenth group is kept from the heads, to measure retrieval


@dataclass(frozen=True)
class TrainedClip:
    """The scorer with everything it has embedded on the way."""

    scorer: SmallScorer
    images: Vectors  # [M, D], in the order of the bank
    texts: Vectors  # [K, D]
    row_of: dict[str, int]  # text -> row of texts: every concept and caption
    loss: float  # at the end of the training
    metrics: dict[str, float]  # retrieval of groups that the heads have not seen
    learnt: pa.Table  # LEARNT: what it was trained with
    kept: KeptClip | None  # whose scorer this is; None: trained for this screening
    image_vectors: Keyed  # what the towers gave, for the next screening
    text_vectors: Keyed


def held_out(group_key: str) -> bool:
    """Whether a group is kept from training the heads: a stable tenth."""
    return int(hashlib.sha256(group_key.encode()).hexdigest()[:8], 16) % _HELD_OUT_IN == 0


def train_on(
    bank: ImageBank,
    images: pa.Table,
    pairs: pa.Table,
    captions: pa.Table,
    config: ScreenConfig,
    known: Known | None = None,
    refused: NDArray[np.bool_] | None = None,
    before: Sequence[Artifact] = (),
    unsaid: pa.ChunkedArray | None = None,
) -> TrainedClip:
    """Train the heads on (image, its concept or a caption of it), without the held-out groups.

    What the towers give of an image or text that is `known` is taken from there. Of images [M] that
    are `refused` nothing is learnt, measured or kept. Where the heads of an artifact of `before`
    may be kept (`kontext.data.quality.kept`), they are; of the images `unsaid` (ids) a caption was
    refused, which those may have learnt.
    """
    banned = np.zeros(len(bank.ids), bool) if refused is None else refused
    net, encoder = load_features(), load_text_encoder()
    known = (known or Known()).made_by(net.digest, encoder.digest)
    features = vectors(bank.ids, known.images, lambda ids: _features(net, bank, ids))
    columns = images.select(["pixel_id", "group_key", "concept"])
    facts = {row["pixel_id"]: row for row in columns.to_pylist()}
    concepts = [str(facts[pixel_id]["concept"]) for pixel_id in bank.ids]
    words = _words(bank.ids, concepts, pairs, captions)
    written = (captions[name].to_pylist() for name in ("target_caption", "context_caption"))
    texts = sorted({"", *concepts, *(text for column in written for text in column if text)})
    row_of = {text: row for row, text in enumerate(texts)}
    pooled = vectors(texts, known.texts, lambda new: text_features(encoder, new))
    groups = [facts[pixel_id]["group_key"] for pixel_id in bank.ids]
    seen = _learnt_from(groups, words, banned)
    rows = np.flatnonzero(seen)
    learnt = learnt_table([bank.ids[row] for row in rows], [words[row] for row in rows])
    let_in = Keyed(bank.ids, features, np.flatnonzero(~banned))
    kept = kept_clip(before, learnt, let_in.names(), config, net, encoder, unsaid)
    if kept is None:
        texts_of = [np.array([row_of[text] for text in words[row]]) for row in rows]
        data = ClipData(features, pooled, texts_of, rows)
        model, losses = train_clip(
            data, steps=config.clip_steps, batch=config.clip_batch, seed=config.seed
        )
        scorer, loss = SmallScorer(model, net, encoder), float(np.mean(losses[-_LAST:]))
    else:
        scorer, loss, learnt = kept.scorer, kept.loss, kept.learnt
    embedded, embedded_texts = scorer.embed_features(features), scorer.embed_pooled(pooled)
    unseen = np.flatnonzero(~seen & ~banned)
    named = [concepts[row] for row in unseen]
    metrics = _retrieval(embedded[unseen], named, embedded_texts, row_of)
    made = let_in, Keyed(texts, pooled, np.arange(len(texts)))
    return TrainedClip(scorer, embedded, embedded_texts, row_of, loss, metrics, learnt, kept, *made)


def _learnt_from(
    groups: Sequence[str], words: Sequence[Sequence[str]], banned: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The images [M] that the heads are trained on: with words, and not of held-out groups.

    Where those are none, all with words; where none has words, all. Raises GateError where every
    image is `banned`.
    """
    worded = np.array([any(said) for said in words])
    trained = np.array([not held_out(group) for group in groups])
    seen: NDArray[np.bool_] = trained & worded & ~banned
    if not seen.any():
        seen[:] = (worded if worded.any() else True) & ~banned
    if not seen.any():
        raise GateError("every picture is refused by the policy: there is nothing to train on")
    return seen


def _features(net: FeatureNet, bank: ImageBank, ids: Sequence[str]) -> Tensor:
    """Features [M, D] of images, in their order."""
    found = torch.empty(len(ids), EMBEDDING_DIM)
    for places in bank.by_size(ids, _PIXELS, _BLOCK):
        made = image_features(net, bank.batch([ids[place] for place in places]))
        found[torch.tensor(places)] = made.cpu()
    return found


def _words(
    ids: Sequence[str], concepts: Sequence[str], pairs: pa.Table, captions: pa.Table
) -> list[list[str]]:
    """Per image its concept and up to three captions of it, sorted; "" alone where it has none."""
    caption = dict(
        zip(captions["pair_id"].to_pylist(), captions["target_caption"].to_pylist(), strict=True)
    )
    written: dict[str, set[str]] = defaultdict(set)
    for pair_id, target in zip(
        pairs["pair_id"].to_pylist(), pairs["target_id"].to_pylist(), strict=True
    ):
        if caption.get(pair_id):
            written[target].add(caption[pair_id])
    said = [
        [concept, *sorted(written[pixel_id])[:_TEXTS_PER_IMAGE]]
        for pixel_id, concept in zip(ids, concepts, strict=True)
    ]
    return [[text for text in texts if text] or [""] for texts in said]


def _retrieval(
    embedded: Vectors, concepts: list[str], texts: Vectors, row_of: dict[str, int]
) -> dict[str, float]:
    """Image-to-concept recall over groups that the heads have not seen; empty without any."""
    names = sorted(set(concepts))
    if len(names) < 2:
        return {}
    candidates = texts[[row_of[name] for name in names]]
    return retrieval(embedded, concepts, {name: i for i, name in enumerate(names)}, candidates)


def score_pairs(trained: TrainedClip, edges: Edges, captions: pa.Table) -> dict[str, Values]:
    """CLIP scores of P pairs, by column [P]; `captions` are their rows of CAPTIONS.

    For several contexts the nearest image and the mean direction. T2I gets clip_i 1 and clip_dir 0.
    Embeddings of some pairs are in memory at a time.
    """
    texts = pa.array(list(trained.row_of), pa.string())
    target_text, context_text = (
        np.asarray(pc.index_in(captions[name].combine_chunks(), value_set=texts), np.int64)
        for name in ("target_caption", "context_caption")
    )
    clip_t = np.empty(len(edges.target))
    clip_i, clip_dir = (np.empty(len(edges.pair), np.float32) for _ in range(2))
    for low in range(0, len(clip_t), _PAIRS):
        pairs = slice(low, low + _PAIRS)
        some = slice(*np.searchsorted(edges.pair, [pairs.start, pairs.stop]))
        target = trained.images[edges.target[pairs]]
        clip_t[pairs] = (target * trained.texts[target_text[pairs]]).sum(1, dtype=np.float64)
        own = edges.pair[some]
        per_edge = pair_scores(
            trained.images[edges.context[some]],
            target[own - low],
            trained.texts[context_text[own]],
            trained.texts[target_text[own]],
        )
        clip_i[some], clip_dir[some] = per_edge.clip_i, per_edge.clip_dir
    total = np.zeros(len(clip_t))
    np.add.at(total, edges.pair, clip_dir.astype(np.float64))
    count = np.bincount(edges.pair, minlength=len(clip_t))
    return {
        "clip_t": clip_t,
        "clip_i": edges.largest(clip_i, 1.0),
        "clip_dir": total / np.maximum(count, 1),
    }
