"""Which size an edit has: Kontext's 17 sizes of about one megapixel, or one native square."""

from typing import Literal

from kontext.data.buckets import KONTEXT_SIZES, MULTIPLE, Size, nearest
from kontext.errors import KontextError

SizeRule = Literal["square", "kontext"]

MAX_PIXELS = 4_194_304
MAX_ASPECT = 4  # longer pictures would have no height left, or a shape that no model has seen
TILE_ABOVE = 2_000_000  # pixels; Kontext's 17 sizes of about a million go in one piece


def snap(width: int, height: int) -> Size:
    """The Kontext size whose aspect ratio differs least from width:height."""
    return nearest(KONTEXT_SIZES, (width, height))


def model_size(rule: SizeRule, resolution: int, width: int, height: int) -> Size:
    """The size at which an image of width x height enters a model.

    A picture longer than Kontext's 17 sizes keeps its shape and has about as many pixels.

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
