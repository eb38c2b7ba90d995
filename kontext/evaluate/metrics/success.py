"""Edit success: the right choice, as sharp as the codec gives it, and nothing else touched.

The three conditions answer three ways to be wrong that one distance lets pass. A ghost of the
target over the context is near to both, so an edit has to be much nearer to the target than to the
context and to every other choice. A blur or a mean colour is nearer to the target as well, so the
target's detail has to be there, and no other. The right value on another subject has both, so what
should not change must be as the autoencoder leaves it, everywhere.

A model that edits latents can at best give what the autoencoder makes of the target. So "near" is
to a picture or to its round trip, whichever is nearer, and "sharp" is as the round trip is.
`kontext.evaluate.false_editors` has the wrong edits by which the limits were chosen.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kontext.evaluate.metrics.base import Measured, Metric, Scoring, mean
from kontext.evaluate.metrics.fidelity import MAX_OUTSIDE_RATIO
from kontext.evaluate.pixels import (
    Images,
    Masks,
    Values,
    blurred,
    change_mask,
    channel_means,
    grown,
)

MAX_CHOICE_RATIO = 0.5
MIN_DETAIL = 0.6
MAX_FOREIGN_DETAIL = 0.6
MAX_STRAY = 3.0
# Rates by another measure are not comparable: say here when what the conditions mean changes.
MEASURE = (
    f"choice {MAX_CHOICE_RATIO:g} everywhere, detail {MIN_DETAIL:g}, foreign "
    f"{MAX_FOREIGN_DETAIL:g}, outside {MAX_OUTSIDE_RATIO:g}, stray {MAX_STRAY:g}"
)
_STEP = 1 / 255  # what rounding to 8 bits may add to an error
_LEAST_DETAIL = 2 / 255  # root mean square, below which a target counts as flat
_LEAST_OUTSIDE = 0.05  # share of a picture below which all of it may change
_CELLS = 8  # a picture's side in cells
_SIDE, _DETAIL, _GROWN = 64, 1.5, 2  # lengths in pixels of a picture of 64; they grow with it
_once = lru_cache(maxsize=1)  # several metrics ask for the same of one editor before the next
Flags = NDArray[np.bool_]
Picture = NDArray[np.uint8]
Details = NDArray[np.float32]  # [N, H, W, 3]


@_once
def choice_ratio(scoring: Scoring) -> Measured:
    """Error to the target ÷ error to the context or another choice, the worst of them.

    Each is measured over the pixels in which the target differs from that picture.
    """
    worst = np.array([_worst_choice(scoring, i) for i in range(len(scoring.bench))])
    return Measured(worst[:, 0], worst[:, 1])


def _worst_choice(scoring: Scoring, i: int) -> tuple[float, float]:
    bench, output = scoring.bench, scoring.output[i]
    target = [bench.target[i], scoring.codec_target[i]]
    others = [([bench.context[i], scoring.codec[i]], bench.mask[i])]
    for rival in bench.rivals.get(i, ()):
        others.append(([rival], change_mask(rival, bench.target[i], bench.mask_threshold)))
    errors = [(_error(output, target, mask), _error(output, it, mask)) for it, mask in others]
    return max(errors, key=lambda pair: pair[0] / max(pair[1], 1e-9))


def _error(output: Picture, pictures: Iterable[Picture], mask: NDArray[np.bool_]) -> float:
    """Mean absolute error over the mask to the nearest of the pictures, 0 to 1."""
    seen = output[mask].astype(np.float32)
    return min(float(np.abs(seen - picture[mask]).mean()) for picture in pictures) / 255


@_once
def detail(scoring: Scoring) -> Measured:
    """Share of the target's detail that the output has, by projection; nan where it has none.

    Detail is what a Gaussian of 1.5 px of 64 takes away, over the mask grown by 2 px of 64. The
    target's is that of its round trip.
    """
    own, wanted, energy = _details(scoring)
    return Measured(_dot(own, wanted), energy)


@_once
def foreign_detail(scoring: Scoring) -> Measured:
    """Energy of the detail that neither target nor round trip has ÷ that of the round trip's."""
    own, wanted, energy = _details(scoring)
    exact = _high_pass(scoring.bench.target) * _grown(scoring)[..., None]
    lost = exact - _along(exact, wanted)
    left = own - _along(own, wanted) - _along(own, lost)
    return Measured(_dot(left, left), energy)


@_once
def _details(scoring: Scoring) -> tuple[Details, Details, Values]:
    """Of the output and of the target's round trip, and its energy [N], nan where it is flat."""
    inside = _grown(scoring)
    own = _high_pass(scoring.output) * inside[..., None]
    wanted = _high_pass(scoring.codec_target) * inside[..., None]
    energy = _dot(wanted, wanted)
    flat = energy < _LEAST_DETAIL**2 * 3 * inside.sum(axis=(1, 2))
    return own, wanted, np.where(flat, np.nan, energy)


def _along(own: Details, axis: Details) -> Details:
    """Projection of each picture's detail on another's."""
    length = _dot(axis, axis)
    share = np.divide(_dot(own, axis), length, out=np.zeros_like(length), where=length > 0)
    return np.asarray(share[:, None, None, None] * axis)


def _dot(a: Details, b: Details) -> Values:
    return np.asarray(np.einsum("nhwc,nhwc->n", a, b, dtype=np.float64))


def _high_pass(images: Images) -> Details:
    return np.asarray((images - blurred(images, _pixels(images, _DETAIL))) / 255)


def _pixels(images: Images, length: float) -> float:
    height, width = images.shape[1:3]
    return float(length * max(1.0, height / _SIDE, width / _SIDE))


@_once
def _grown(scoring: Scoring) -> Masks:
    return grown(scoring.bench.mask, round(_pixels(scoring.output, _GROWN)))


def untouched(scoring: Scoring) -> Masks:
    """Pixels [N, H, W] that an edit has to leave alone: outside the grown mask."""
    return ~_grown(scoring)


@_once
def outside_errors(scoring: Scoring) -> tuple[Values, Values, Values]:
    """Mean error outside the grown mask [N], that of the codec, and the output's in its worst cell.

    The error is to context, target or their round trips, whichever is nearest: outside they show
    the same. nan where hardly anything lies outside. A cell is an eighth of a side; it counts where
    a quarter of it lies outside.
    """
    outside, bench = untouched(scoring), scoring.bench
    alike = (bench.context, scoring.codec, bench.target, scoring.codec_target)
    own = np.stack([_map(scoring.output, picture) * outside for picture in alike])
    lost = _map(scoring.codec, bench.context) * outside
    area = outside.sum(axis=(1, 2))
    some = np.where(area < _LEAST_OUTSIDE * outside[0].size, np.nan, area)
    means = own.sum(axis=(2, 3)) / some
    nearest = np.argmin(np.nan_to_num(means), axis=0)
    cells = _cells(own[nearest, np.arange(len(nearest))])
    covered = _cells(outside.astype(np.float64))
    per_cell = np.divide(cells, covered, out=np.zeros_like(cells), where=covered > 0.25)
    return means.min(axis=0), lost.sum(axis=(1, 2)) / some, per_cell.max(axis=(1, 2))


def _map(a: Images, b: Images) -> Values:
    """Absolute error [N, H, W], mean over channels, 0 to 1."""
    return np.asarray(channel_means(np.abs(a.astype(np.float32) - b)) / 255, np.float64)


def _cells(values: Values) -> Values:
    """Means of cells [N, h, w] of [N, H, W]; pixels that fill no cell are left out."""
    n, height, width = values.shape
    tall, wide = max(1, height // _CELLS), max(1, width // _CELLS)
    down, across = height // tall, width // wide
    cut = values[:, : down * tall, : across * wide]
    return np.asarray(cut.reshape(n, down, tall, across, wide).mean(axis=(2, 4)))


def right_choice(scoring: Scoring) -> Flags:
    """First condition [N]: at most half as far from the target as from any other choice.

    And in no cell is more than half of the change undone: one distance over all of a picture does
    not see a stray patch in it.
    """
    ratio = choice_ratio(scoring)
    return np.asarray(ratio.top < MAX_CHOICE_RATIO * ratio.bottom) & _done_everywhere(scoring)


def _done_everywhere(scoring: Scoring) -> Flags:
    """Whether each cell [N] is half as far from the target as the context, or a few codec errors.

    A cell that the edit hardly changes may be as far as a stray error outside may be.
    """
    bench, exact = scoring.bench, scoring.bench.target
    pictures = (exact, scoring.codec_target)
    own = np.minimum(*(_cells(_map(scoring.output, picture)) for picture in pictures))
    codec = _map(scoring.codec_target, exact).mean(axis=(1, 2))[:, None, None]
    undone = _cells(_map(bench.context, exact))
    most = np.maximum(MAX_CHOICE_RATIO * undone, MAX_STRAY * codec + 8 * _STEP)
    return np.asarray((own <= most).all(axis=(1, 2)))


def sharp(scoring: Scoring) -> Flags:
    """Second condition [N]: the target's detail is there, and not more of another.

    Sharper than the codec is no fault: the target's own detail passes too, to within what a blur
    may take.
    """
    share, foreign = detail(scoring).per_item, foreign_detail(scoring).per_item
    inside = _grown(scoring)[..., None]
    exact = _high_pass(scoring.bench.target) * inside
    off = _high_pass(scoring.output) * inside - exact
    own = _dot(off, off) <= (1 - MIN_DETAIL) ** 2 * _dot(exact, exact)
    return np.isnan(share) | own | ((share > MIN_DETAIL) & (foreign < MAX_FOREIGN_DETAIL))


def kept(scoring: Scoring) -> Flags:
    """Third condition [N]: outside, as the codec leaves it, on the whole and in every cell."""
    own, codec, worst = outside_errors(scoring)
    whole = own < MAX_OUTSIDE_RATIO * codec + _STEP
    return np.isnan(own) | (whole & (worst < MAX_STRAY * codec + 8 * _STEP))


def succeeded(scoring: Scoring) -> Flags:
    """All three [N]."""
    return right_choice(scoring) & sharp(scoring) & kept(scoring)


def _share(flags: Flags) -> Measured:
    return mean(flags.astype(np.float64))


PLACE = 0
METRICS = (
    Metric(
        "success",
        "Edit success",
        "%",
        "share of items that meet all three conditions: right choice, sharp, kept",
        lambda scoring: _share(succeeded(scoring)),
    ),
    Metric(
        "right_choice",
        "Success, first condition: right choice",
        "%",
        "share of items whose error to the target is below half of that to the context and to "
        "every other choice for it in the bench, and in no eighth of a side above half of the "
        "context's there",
        lambda scoring: _share(right_choice(scoring)),
    ),
    Metric(
        "sharp",
        "Success, second condition: sharp",
        "%",
        "share of items with more than 0.6 of the detail that the codec keeps of the target, and "
        "less foreign detail than that",
        lambda scoring: _share(sharp(scoring)),
    ),
    Metric(
        "kept",
        "Success, third condition: kept",
        "%",
        "share of items that change what should not change by less than 1.3 × the codec's error, "
        "and no eighth of a side by more than 3 ×",
        lambda scoring: _share(kept(scoring)),
        judges="preservation",
    ),
    Metric(
        "choice_ratio",
        "Distance from the right choice",
        "×",
        "mean absolute error to the target ÷ that to the context or the worst other choice, over "
        "the pixels where they differ from the target (above 1 = nearer to the wrong one)",
        choice_ratio,
        better="lower",
    ),
    Metric(
        "detail",
        "Detail of the target",
        "×",
        "share of the target's detail (after a Gaussian of 1.5 px of 64) that is there, over the "
        "change mask grown by 2 px of 64",
        detail,
    ),
    Metric(
        "foreign_detail",
        "Foreign detail",
        "×",
        "energy of the detail that is not the target's ÷ that of the target's",
        foreign_detail,
        better="lower",
    ),
)
