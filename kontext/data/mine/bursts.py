"""Photographs of one folder that were taken within seconds: the same moment, and what moved in it.

Their cameras say when (EXIF). What makes two of them a pair is as for frames of a video.
"""

from collections.abc import Iterator, Sequence

from kontext.data.mine.candidate import Candidate, MinedImage, rows_by
from kontext.data.mine.frames import of_series, when
from schemas.sections.data import MineConfig

VERSION = "1"


def mine(images: Sequence[MinedImage], config: MineConfig) -> Iterator[Candidate]:
    """Pairs of photographs of a burst, in both directions."""
    for _, rows in sorted(rows_by(images, _folder).items()):
        members = sorted((images[row] for row in rows), key=when)
        for burst in _bursts(members, config.burst_seconds):
            yield from of_series(burst, config, "bursts")


def _folder(image: MinedImage) -> str | None:
    moment = image.moment
    return None if moment is None or moment.kind != "photograph" else moment.series


def _bursts(members: Sequence[MinedImage], longest: float) -> Iterator[list[MinedImage]]:
    """Runs of photographs of one shape, each at most `longest` seconds after the one before."""
    burst: list[MinedImage] = []
    for image in members:
        if burst and not _follows(burst[-1], image, longest):
            yield burst
            burst = []
        burst.append(image)
    if burst:
        yield burst


def _follows(before: MinedImage, image: MinedImage, longest: float) -> bool:
    assert before.moment is not None and image.moment is not None
    near = image.moment.at - before.moment.at <= longest  # before pixels are read
    return near and before.rgb.shape == image.rgb.shape
