"""How far off a picture is after each turn of a script.

Success is the bench's own, of the turn's own edit. What should not have changed so far is what
lies outside of the change masks of all turns until then, grown as success grows them; there the
picture is compared with the one before the first turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.benches.held_out import Bench, Item, unlike
from kontext.evaluate.drift.scripts import TURNS, Script, Scripts
from kontext.evaluate.metrics.base import Measured, Scoring, mean
from kontext.evaluate.metrics.success import kept, outside_errors, succeeded, untouched
from kontext.evaluate.pixels import (
    Images,
    Masks,
    Picture,
    Rows,
    Values,
    alike,
    as_images,
    change_mask,
    channel_means,
    cosine_distance,
    masked_mae,
)

Features = Callable[[Images], NDArray[np.float32]]  # [N, D] of pictures of one size


@dataclass(frozen=True)
class DriftMeasure:
    """One curve. unit: %, × or empty; axis: what its chart has beside the numbers."""

    title: str
    unit: str
    axis: str
    definition: str


MEASURES: dict[str, DriftMeasure] = {
    "success": DriftMeasure(
        "Edit success, turn by turn",
        "%",
        "% of scripts",
        "share of turns that succeed, as in the verdict: the picture before and after the turn "
        "is known. A turn that asks for nothing succeeds where the rest would count as kept",
    ),
    "holds": DriftMeasure(
        "All turns so far have succeeded",
        "%",
        "% of scripts",
        "share of scripts without a failed turn so far",
    ),
    "rest": DriftMeasure(
        "The rest has been kept so far",
        "%",
        "% of scripts",
        "share of scripts in which what should not have changed so far was, at every turn, as "
        "the autoencoder leaves it: below 1.3 × its error, and in no eighth of a side above 3 ×",
    ),
    "error": DriftMeasure(
        "Error in what should not have changed so far",
        "×",
        "× a round trip's error",
        "mean absolute error to the first picture ÷ that of one round trip through the autoencoder",
    ),
    "features": DriftMeasure(
        "Distance of features to the known picture",
        "",
        "cosine distance",
        "cosine distance in pooled EfficientNet-Lite0 features, over the whole picture",
    ),
    "colour": DriftMeasure(
        "Shift of the mean colour",
        "",
        "levels of 255",
        "mean absolute difference of the channels' means to the first picture's, 0 to 255, over "
        "what should not have changed so far",
    ),
    "saturation": DriftMeasure(
        "Shift of the saturation",
        "",
        "levels of 255",
        "mean saturation (largest minus smallest channel, 0 to 255) minus the first picture's, "
        "over what should not have changed so far",
    ),
    "detail": DriftMeasure(
        "Detail",
        "×",
        "× the first picture's",
        "mean absolute difference of neighbouring pixels ÷ the first picture's, over what should "
        "not have changed so far",
    ),
}
Found = dict[str, list[Measured]]  # by measure, then by turn


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of scripts of one size (`rows` of all), by turn; index 0 is the beginning.

    pictures, round_trips: uint8 [N, H, W, 3]; features: float32 [N, D]; history: what may have
    changed so far, bool [N, H, W].
    """

    scripts: tuple[Script, ...]
    rows: Rows
    pictures: list[Images]
    round_trips: list[Images]
    features: list[NDArray[np.float32]]
    history: list[Masks]
    threshold: float
    rivals: list[dict[int, Images]]


def truths(
    scripts: Scripts, round_trip: Callable[[Images], Images], features: Features, threshold: float
) -> list[Truth]:
    """What is known, for the scripts of each size."""
    first = as_images([scripts.pictures[script.rows[0]] for script in scripts.scripts])
    found = []
    for rows in alike(first):
        own = tuple(scripts.scripts[row] for row in rows)
        pictures = [
            np.stack([scripts.pictures[script.rows[turn]] for script in own])
            for turn in range(TURNS + 1)
        ]
        history = [np.zeros(pictures[0].shape[:3], bool)]
        for before, after in pairwise(pictures):
            history.append(history[-1] | change_mask(before, after, threshold))
        known = (own, rows, pictures, [round_trip(one) for one in pictures])
        vectors = [features(one) for one in pictures]
        rivals = [_rivals(scripts, own, turn, threshold) for turn in range(TURNS)]
        found.append(Truth(*known, vectors, history, threshold, rivals))
    return found


def _rivals(
    scripts: Scripts, own: Sequence[Script], turn: int, threshold: float
) -> dict[int, Images]:
    found: dict[int, Images] = {}
    for row, script in enumerate(own):
        asked = script.turns[turn]
        if asked.others:
            others = np.stack([scripts.pictures[other] for other in asked.others])
            rivals = unlike(others, scripts.pictures[asked.after], threshold)
            found |= {row: rivals} if len(rivals) else {}
    return found


def measure(truth: Truth, chain: Sequence[Sequence[Picture]], features: Features) -> Found:
    """Every measure of MEASURES at every turn, of the scripts of one size [N].

    Args:
        chain: the pictures of all scripts, by turn.
    """
    found: Found = {name: [] for name in MEASURES}
    never = np.ones(len(truth.scripts), bool)
    holds, rest = never, never
    for turn in range(TURNS):
        output = np.stack([chain[turn][row] for row in truth.rows])
        success = _success(truth, turn, output)
        scoring = _rest(truth, turn, output)
        some = np.isfinite(outside_errors(scoring)[0])
        holds, rest = holds & success, rest & kept(scoring)
        vectors = truth.features[turn + 1]
        values = {
            "success": mean(success.astype(np.float64)),
            "holds": mean(holds.astype(np.float64)),
            "rest": mean(np.where(some, rest, np.nan)),
            "error": _error(scoring, some),
            "features": mean(cosine_distance(features(output), vectors)),
            **_shifts(scoring, some),
        }
        for name, own in values.items():
            found[name].append(own)
    return found


def _success(truth: Truth, turn: int, output: Images) -> NDArray[np.bool_]:
    """Of the turn's own edit [N], by the definition of the bench."""
    found = np.zeros(len(truth.scripts), bool)
    keeps = np.array([script.turns[turn].kind == "keep" for script in truth.scripts])
    for rows in (np.flatnonzero(keeps), np.flatnonzero(~keeps)):
        if not len(rows):
            continue
        before, after = truth.pictures[turn][rows], truth.pictures[turn + 1][rows]
        mask = change_mask(before, after, truth.threshold)
        own = truth.rivals[turn]
        rivals = {place: own[row] for place, row in enumerate(rows.tolist()) if row in own}
        scoring = _scoring(
            replace(_bench(truth, before, after, mask, rows), rivals=rivals),
            output[rows],
            truth.round_trips[turn][rows],
            truth.round_trips[turn + 1][rows],
        )
        # where nothing is asked for there is no choice to make, and no detail to bring
        found[rows] = kept(scoring) if keeps[rows[0]] else succeeded(scoring)
    return found


def _rest(truth: Truth, turn: int, output: Images) -> Scoring:
    """The picture as an edit of the first one that may change what was asked for so far."""
    first, coded = truth.pictures[0], truth.round_trips[0]
    rows = np.arange(len(truth.scripts))
    bench = _bench(truth, first, first, truth.history[turn + 1], rows)
    return _scoring(bench, output, coded, coded)


def _bench(truth: Truth, before: Images, after: Images, mask: Masks, rows: Rows) -> Bench:
    items = tuple(_item(truth.scripts[row]) for row in rows)
    return Bench(items, before, after, mask, truth.threshold)


def _item(script: Script) -> Item:
    return Item(script.id, "", "", "", "", "", "", "", script.cluster)


def _scoring(bench: Bench, output: Images, codec: Images, codec_target: Images) -> Scoring:
    none = np.zeros((len(output), 0), np.float32)
    return Scoring(bench, output, codec, codec_target, none, none, None)


def _error(scoring: Scoring, some: NDArray[np.bool_]) -> Measured:
    """To the first picture where it should not have changed, and that of its round trip."""
    region = untouched(scoring) & some[:, None, None]
    first = scoring.bench.context
    return Measured(*(masked_mae(one, first, region) for one in (scoring.output, scoring.codec)))


def _shifts(scoring: Scoring, some: NDArray[np.bool_]) -> dict[str, Measured]:
    """Colour, saturation and detail over what should not have changed; nan where there is none."""
    region = untouched(scoring) & some[:, None, None]
    own, first = scoring.output.astype(np.float32), scoring.bench.context.astype(np.float32)
    colour = np.abs(_means(own, region) - _means(first, region)).mean(axis=1)
    gain = _means(_saturation(own), region)[:, 0] - _means(_saturation(first), region)[:, 0]
    sharp = Measured(_differences(own, region), _differences(first, region))
    return {"colour": mean(colour), "saturation": mean(gain), "detail": sharp}


def _saturation(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((images.max(axis=-1) - images.min(axis=-1))[..., None])


def _means(values: NDArray[np.float32], region: Masks) -> Values:
    """Means [N, C] of [N, H, W, C] over a region; nan where it is empty."""
    count = region.sum(axis=(1, 2)).astype(np.float64)[:, None]
    total = np.einsum("nhwc,nhw->nc", values, region, dtype=np.float64)
    return np.asarray(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))


def _differences(images: NDArray[np.float32], region: Masks) -> Values:
    """Mean absolute difference of horizontal and vertical neighbours in the region [N]."""
    total, count = np.zeros(len(images)), np.zeros(len(images))
    for ahead, behind in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
        both = region[ahead] & region[behind]
        far = channel_means(np.abs(images[ahead] - images[behind]))
        total += (far * both).sum(axis=(1, 2))
        count += both.sum(axis=(1, 2))
    return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))
