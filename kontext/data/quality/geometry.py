"""How a target lies on its context: moved as a whole, softer or sharper, changed in one place.

Generated edits often come back shifted, zoomed or softer than what they were made of; a model
learns that with the edit. All scores are raw, and say little where the two show different things.
Of one pair at a time: their cost is that of a few Fourier transforms of a small picture.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from kontext.data.pixels import Pixels

Grey = NDArray[np.float32]
Warp = NDArray[np.float32]  # [2, 3], from places in the context to places in the target

OK, FLAT, UNRELATED = "ok", "flat", "unrelated"  # whether a movement was found
OTHER_SHAPE, NO_CONTEXT = "other_shape", "no_context"  # or could not be asked for

_SIDE = 128  # the longer side at which movement is looked for
_EDGE = 8.0  # levels per pixel from which a place has an edge
_SLOPE = 4.0  # from which it shows a movement of an eighth of a pixel as another level
_STILL = 0.6  # of the upright edges and of the lying ones stand still: nothing has moved
_FEW = 8  # places with edges, below which a picture is flat
_FOUND = 0.5  # correlation of edges from which one picture lies on the other
_NEAR = 0.9  # from which no movement further off is tried,
_AS_ONE = 0.999  # nor any at all
_MORE = 0.1  # by which a movement must correlate better than none,
_HALF = 0.5  # or of what standing still leaves unexplained, it leaves less
_LEAST = 0.1  # pixels, at that side, that count as a movement
_OVERLAP = 0.5  # of the picture that must stay inside
_ECC = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 25, 1e-4)  # rounds and gain of the last
_BLOCKS = 8  # a side, whose sharpness is compared
_AS_BRIGHT = 4.0  # levels by which the mean of a block that is not edited may differ
_NOISE, _DETAIL = 1.0, 16.0  # squared levels: added to every block, and needed in one of the two


class Movement(NamedTuple):
    """How far a picture has moved as a whole, as a share of its longer side; nan unless ok."""

    share: float
    status: str


def largest_blob(changed: NDArray[np.bool_]) -> float:
    """Share 0 to 1 of a picture [H, W] in the largest 4-connected area of changed pixels."""
    labels, count = ndimage.label(changed)
    return float(np.bincount(labels.ravel())[1:].max() / changed.size) if count else 0.0


def sharpness(context: Pixels, target: Pixels) -> float:
    """Log2 of the target's Laplacian variance over the context's: 0 alike, below 0 softer.

    The median of those of 8 × 8 blocks that have detail in either picture. Blur leaves the mean of
    a block as it is: blocks that become brighter or darker are edited, and do not count where a
    quarter is not. nan where neither has detail. -20 to 20; swapped, it is the negative.

    Args:
        context, target: uint8 [H, W, 3] of one size.
    """
    lumas = _luma(context), _luma(target)
    detail = [_blocks(np.square(_laplacian(luma))) for luma in lumas]
    seen = np.maximum(*detail) >= _DETAIL
    if not seen.any():
        return float("nan")
    kept = seen & (np.abs(_blocks(lumas[0]) - _blocks(lumas[1])) <= _AS_BRIGHT)
    seen = kept if 4 * kept.sum() >= seen.sum() else seen
    before, after = (np.log2(each[seen].astype(np.float64) + _NOISE) for each in detail)
    return float(np.median(after - before))


def _blocks(values: Grey) -> Grey:
    """Means of blocks, float32 [8, 8] or fewer."""
    height, width = values.shape
    blocks = (min(_BLOCKS, width), min(_BLOCKS, height))
    return np.asarray(cv2.resize(values, blocks, interpolation=cv2.INTER_AREA), np.float32)


def movement(context: Pixels, target: Pixels) -> Movement:
    """How far a target is shifted, turned and scaled against its context.

    The mean distance by which the corners move, as a share of the longer side: a shift by k pixels
    is k / max(H, W). 0 where most edges stand still, whatever else was edited, and where no
    movement brings the edges together clearly better than none. `flat`: too few edges in one of
    them. `unrelated`: the edges do not lie on each other in any way that was found.

    Shift by phase correlation, turn and scale by that of log-polar spectra (Reddy & Chatterji
    1996), then the affine transform of Evangelidis & Psarakis 2008; all on the edges, which
    recolouring leaves where they are.

    Args:
        context, target: uint8 [H, W, 3] of one size.
    """
    assert context.shape == target.shape
    one, two = _small(context), _small(target)
    lumas = _luma(one), _luma(two)
    if min(int((_slope(luma) > _EDGE).sum()) for luma in lumas) < _FEW:
        return Movement(float("nan"), FLAT)
    if _still(one, two, lumas):
        return Movement(0.0, OK)
    a, b = (np.sqrt(_slope(_soft(luma))) for luma in lumas)
    warp, correlation = _best(a, b)
    if correlation < _FOUND:
        return Movement(float("nan"), UNRELATED)
    pixels = _moved(warp, a.shape)
    return Movement(pixels / max(a.shape) if pixels >= _LEAST else 0.0, OK)


def _still(one: Pixels, two: Pixels, lumas: tuple[Grey, Grey]) -> bool:
    """Whether most edges are the same in both, upright ones and lying ones.

    A shift leaves the edges along it as they are, so both are asked; a turn leaves none.
    """
    same = (one == two).all(2)
    for way in range(2):
        edges = np.maximum(*(np.abs(_slopes(luma)[way]) for luma in lumas)) > _SLOPE
        if edges.sum() < _FEW or same[edges].mean() < _STILL:
            return False
    return True


def _best(a: Grey, b: Grey) -> tuple[Warp, float]:
    """The movement that brings two maps of edges together best, and their correlation then."""
    still = np.eye(2, 3, dtype=np.float32)
    found, scores = [still], [_correlation(a, b, still)]
    for make in (_shift, _turned):
        if max(scores) < _NEAR:
            found.append(make(a, b, still))
            scores.append(_correlation(a, b, found[-1]))
    if scores[0] > _AS_ONE:
        return still, scores[0]
    first = int(np.argmax(scores))
    if (refined := _refined(a, b, found[first])) is not None:
        found.append(refined)
        scores.append(_correlation(a, b, refined))
    best = int(np.argmax(scores))
    believed = scores[best] > scores[0] + _MORE or 1 - scores[best] < _HALF * (1 - scores[0])
    best = best if believed else 0
    return found[best], scores[best]


def _shift(a: Grey, b: Grey, warp: Warp) -> Warp:
    """The movement with the shift that brings `b` onto `a` after it."""
    height, width = a.shape
    moved = cv2.warpAffine(b, warp, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    (right, down), _ = cv2.phaseCorrelate(a - a.mean(), moved - moved.mean(), window)
    found = warp.copy()
    found[:, 2] += warp[:, :2] @ np.array([right, down], np.float32)
    return found


def _turned(a: Grey, b: Grey, still: Warp) -> Warp:
    """Turn and scale from the spectra, which a shift does not change, then the shift."""
    side = 2 * (min(a.shape) // 2)
    spectra = []
    for each in (a, b):
        window = cv2.createHanningWindow((each.shape[1], each.shape[0]), cv2.CV_32F)
        square = cv2.resize((each - each.mean()) * window, (side, side))
        power = np.fft.fftshift(np.abs(np.fft.fft2(square))).astype(np.float32)
        spectra.append(np.log1p(power))
    middle, radius = (side / 2, side / 2), side / 2
    polar = [
        cv2.warpPolar(each, (side, 2 * side), middle, radius, cv2.WARP_POLAR_LOG)[:side]
        for each in spectra  # half of the angles: spectra of real pictures are symmetric
    ]
    window = cv2.createHanningWindow((side, side), cv2.CV_32F)
    (wide, around), _ = cv2.phaseCorrelate(polar[0], polar[1], window)
    scale = float(np.exp(-wide * np.log(radius) / side))  # of the target against the context
    angle = 180.0 * around / side
    height, width = a.shape
    centre = ((width - 1) / 2, (height - 1) / 2)
    if not 0.5 < scale < 2:
        return still
    warp = cv2.getRotationMatrix2D(centre, -angle, scale).astype(np.float32)
    return _shift(a, b, warp)


def _refined(a: Grey, b: Grey, warp: Warp) -> Warp | None:
    """The affine movement near a first one; None where there is none."""
    try:
        _, found = cv2.findTransformECC(a, b, warp.copy(), cv2.MOTION_AFFINE, _ECC)
    except cv2.error:  # it does not converge: nothing near there fits
        return None
    return np.asarray(found, np.float32)


def _correlation(a: Grey, b: Grey, warp: Warp) -> float:
    """Pearson's of two maps where they overlap after a movement; -1 where they hardly do."""
    size, how = (a.shape[1], a.shape[0]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(np.ones_like(b), warp, size, flags=how) > 0.99
    if inside.mean() < _OVERLAP:
        return -1.0
    x, y = a[inside], cv2.warpAffine(b, warp, size, flags=how)[inside]
    x, y = x - x.mean(), y - y.mean()
    both = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / both if both > 0 else -1.0


def _moved(warp: Warp, shape: tuple[int, ...]) -> float:
    """Mean distance in pixels by which the corners move."""
    height, width = shape
    ends = [(x, y, 1) for x in (0, width - 1) for y in (0, height - 1)]
    corners = np.array(ends, np.float64)
    by = corners @ warp.T.astype(np.float64) - corners[:, :2]
    return float(np.linalg.norm(by, axis=1).mean())


def _small(picture: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    scale = _SIDE / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _luma(picture: Pixels) -> Grey:
    """Float32 [H, W], 0 to 255 (ITU-R BT.601)."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.float32)


def _laplacian(luma: Grey) -> Grey:
    return np.asarray(cv2.Laplacian(luma, cv2.CV_32F), np.float32)


def _soft(luma: Grey) -> Grey:
    return np.asarray(cv2.GaussianBlur(luma, (0, 0), 1.0), np.float32)


def _slope(luma: Grey) -> Grey:
    """Size of the gradient [H, W], levels per pixel."""
    right, down = _slopes(luma)
    # cv2.magnitude rounds by where its arrays lie in memory, and a rerun has to give the same bytes
    return np.asarray(np.sqrt(right * right + down * down), np.float32)


def _slopes(luma: Grey) -> tuple[Grey, Grey]:
    """Gradient to the right and down [H, W], levels per pixel."""
    right = cv2.Scharr(luma, cv2.CV_32F, 1, 0, scale=1 / 32)
    down = cv2.Scharr(luma, cv2.CV_32F, 0, 1, scale=1 / 32)
    return np.asarray(right, np.float32), np.asarray(down, np.float32)
