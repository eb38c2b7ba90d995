"""Frames of one shot of a video: what has moved between them is the edit.

Two frames are a pair where something has moved and the rest has stayed: below `moved_least` nothing
happens, above `moved_most` it is another picture. What is compared is grey, small, and moved back
by the shift of the camera, so that a pan alone is told from things that move. A share of pixels and
the shift are stored as evidence.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from kontext.data.licenses import strictest_license
from kontext.data.mine.candidate import Candidate, MinedImage, rows_by
from kontext.data.mine.relations import RELATIONS
from schemas.sections.data import MineConfig

VERSION = "1"
_SIDE = 64  # of the grey copies that are compared
_DIFFERENT = 0.1  # difference of grey (0 to 1) that is seen
_PANNED = 0.02  # shift by so much of a side is the camera's
_EDGE, _STAYED = 8, 0.02  # width of the edges; mean difference there if the camera has not moved
_BLURRED = 0.25  # sharpness below so much of its shot's median: between two pictures, or blurred

Grey = NDArray[np.float64]


def mine(images: Sequence[MinedImage], config: MineConfig) -> Iterator[Candidate]:
    """Pairs of frames of a shot, at most `frames_apart` apart, in both directions."""
    for _, rows in sorted(rows_by(images, _shot).items()):
        yield from of_series(sorted((images[row] for row in rows), key=when), config, "frames")


def _shot(image: MinedImage) -> tuple[str, int] | None:
    moment = image.moment
    return None if moment is None or moment.kind != "frame" else (moment.series, moment.shot)


def when(image: MinedImage) -> tuple[float, str]:
    """What pictures of a series are sorted by: their time, then their id."""
    assert image.moment is not None
    return image.moment.at, image.pixel_id


def of_series(members: Sequence[MinedImage], config: MineConfig, miner: str) -> Iterator[Candidate]:
    """Pairs of pictures that follow each other, both ways; a grey copy of each is made once."""
    if len(members) < 2:
        return
    greys = [_grey(image.rgb) for image in members]
    sharpness = [_sharpness(grey) for grey in greys]
    sharp = [one >= _BLURRED * float(np.median(sharpness)) for one in sharpness]
    for later in range(1, len(members)):
        for before in range(max(0, later - config.frames_apart), later):
            if not (sharp[before] and sharp[later]):
                continue
            shift, moved = _moved(greys[before], greys[later])
            if config.moved_least <= moved <= config.moved_most:
                one, other = members[before], members[later]
                yield _candidate(one, other, shift, moved, miner)
                yield _candidate(other, one, shift, moved, miner)


def _candidate(
    context: MinedImage, target: MinedImage, shift: float, moved: float, miner: str
) -> Candidate:
    assert context.moment is not None and target.moment is not None
    relation, category = RELATIONS["viewpoint" if shift > _PANNED else "moment"]
    passed = target.moment.at - context.moment.at
    ways = [f"{_seconds(abs(passed))} {way}" for way in ("later", "earlier")]
    # two of the same second: the order of their ids is as good as any
    forward = when(target) > when(context)
    start, end = reversed(ways) if forward else ways
    return Candidate(
        context_ids=(context.pixel_id,),
        target_id=target.pixel_id,
        relation_class=category,
        relation=relation,
        miner=miner,
        miner_version=VERSION,
        params={
            "attribute": relation,
            "from": start,
            "to": end,
            "series": context.moment.series,
            "shot_ms": context.moment.shot,
            "context_at_s": round(context.moment.at, 3),
            "target_at_s": round(target.moment.at, 3),
            "moved": round(moved, 4),
            "shift": round(shift, 4),
        },
        group_key=target.group_key,
        source=target.source,
        license_spdx=strictest_license(context.license_spdx, target.license_spdx),
    )


def _seconds(passed: float) -> str:
    """A time in words, as somebody would say it.

    >>> _seconds(0.52), _seconds(1.0), _seconds(125)
    ('half a second', 'one second', '125 seconds')
    """
    if passed < 0.75:
        return "half a second" if passed >= 0.35 else "a moment"
    whole = round(passed)
    names = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    word = names[whole] if whole < len(names) else f"{whole}"
    return f"{word} second" + "s" * (whole != 1)


def _grey(rgb: NDArray[np.uint8]) -> Grey:
    """A square grey copy, [64, 64], 0 to 1: means of blocks."""
    height, width = rgb.shape[:2]
    grey = rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    rows = np.linspace(0, height, _SIDE + 1).astype(int)[:-1]
    columns = np.linspace(0, width, _SIDE + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    return np.asarray(sums / np.maximum(counts, 1))


def _sharpness(grey: Grey) -> float:
    """Mean square of the differences of neighbours."""
    return float((np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean())


def _moved(before: Grey, after: Grey) -> tuple[float, float]:
    """(shift of the whole picture as a share of its side, share of pixels that differ besides)."""
    plain = _different(before, after)
    down, right = _shift(before, after)
    if (down, right) == (0, 0) or max(abs(down), abs(right)) > _SIDE // 2:
        return 0.0, plain
    one = before[max(0, -down) : _SIDE - max(0, down), max(0, -right) : _SIDE - max(0, right)]
    other = after[max(0, down) : _SIDE + min(0, down), max(0, right) : _SIDE + min(0, right)]
    aligned = _different(one, other)
    stayed = _at_edges(before, after)
    if aligned >= plain or stayed < _STAYED or _at_edges(one, other) > stayed / 2:
        return 0.0, plain  # nothing is explained by it, or only what is in the middle: that moved
    # what came into the picture at its edges has changed as well
    outside = 1 - one.size / before.size
    return float(np.hypot(down, right)) / _SIDE, aligned * (1 - outside) + outside


def _at_edges(one: Grey, other: Grey) -> float:
    """Mean difference along the edges, where the place is seen rather than what is in it."""
    edges = np.ones(one.shape, bool)
    edges[_EDGE:-_EDGE, _EDGE:-_EDGE] = False
    return float(np.abs(one - other)[edges].mean())


def _different(one: Grey, other: Grey) -> float:
    return float((np.abs(one - other) > _DIFFERENT).mean())


def _shift(before: Grey, after: Grey) -> tuple[int, int]:
    """(down, right) by which `after` is moved against `before`: the peak of phase correlation."""
    window = np.outer(np.hanning(_SIDE), np.hanning(_SIDE))
    one, other = (np.fft.fft2((grey - grey.mean()) * window) for grey in (before, after))
    cross = other * np.conj(one)
    peaks = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-9)).real
    down, right = np.unravel_index(int(peaks.argmax()), peaks.shape)
    return _signed(int(down)), _signed(int(right))


def _signed(steps: int) -> int:
    return steps - _SIDE if steps > _SIDE // 2 else steps
