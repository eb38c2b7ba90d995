"""Which size an edit has: one of Kontext's 17 of about a megapixel, or of a list, or the square."""

from typing import Literal

from kontext.data.buckets import KONTEXT_SIZES, MULTIPLE, Buckets, Size, nearest
from kontext.errors import KontextError
from schemas.sections.data import IngestConfig

SizeRule = Literal["square", "kontext"] | tuple[Size, ...]

MAX_PIXELS = 4_194_304
MAX_ASPECT = 4  # longer pictures would have no height left, or a shape that no model has seen
_FLUX_SIDE = 1024  # Kontext's 17 sizes have its area
_STRETCH = 1.1  # shapes this much apart are taken for one
TILE_ABOVE = 2_000_000  # pixels; Kontext's 17 sizes of about a million go in one piece


def size_rule(config: IngestConfig) -> SizeRule:
    """The sizes that a model trained on pictures of a recipe edits at."""
    if config.sizes == "square" or (config.sizes == "kontext" and config.resolution == _FLUX_SIDE):
        return config.sizes
    return Buckets.of(config).sizes


def stretches(rule: SizeRule, picture: Size, size: Size) -> bool:
    """Whether a picture fills a size by a little change of its shape; else it gets a border.

    Kontext's sizes are so many that no picture's shape changes by more than a few percent.
    """
    if rule == "square" or rule == "kontext":
        return rule == "kontext"
    change = picture[0] * size[1] / (picture[1] * size[0])
    return max(change, 1 / change) <= _STRETCH


def snap(width: int, height: int) -> Size:
    """The Kontext size whose aspect ratio differs least from width:height."""
    return nearest(KONTEXT_SIZES, (width, height))


def model_size(rule: SizeRule, resolution: int, width: int, height: int) -> Size:
    """The size at which an image of width x height enters a model.

    Of a list it is the one of the nearest shape. With Kontext's 17 sizes, a longer picture keeps
    its shape and has about as many pixels.

    Raises:
        KontextError: it is longer than 4 to 1.
    """
    aspect = width / height
    if max(aspect, 1 / aspect) > MAX_ASPECT:
        raise KontextError(
            f"a picture of {width} x {height} is longer than {MAX_ASPECT} to 1: cut out the part "
            "that is to be edited"
        )
    if rule == "square":
        return resolution, resolution
    if rule != "kontext":
        return nearest(rule, (width, height))
    if max(aspect, 1 / aspect) <= KONTEXT_SIZES[-1][0] / KONTEXT_SIZES[-1][1]:
        return snap(width, height)
    made = (round(1024 * ratio**0.5 / MULTIPLE) * MULTIPLE for ratio in (aspect, 1 / aspect))
    return next(made), next(made)


def check_size(size: Size) -> Size:
    """Return `size` if a model can make it.

    Raises:
        KontextError: sides not positive multiples of 16, or more than four megapixels.
    """
    width, height = size
    if min(size) < MULTIPLE or width % MULTIPLE or height % MULTIPLE:
        raise KontextError(f"size {width}x{height}: both sides must be multiples of {MULTIPLE}")
    if width * height > MAX_PIXELS:
        raise KontextError(f"size {width}x{height} is above {MAX_PIXELS / 2**20:.0f} megapixels")
    return size
