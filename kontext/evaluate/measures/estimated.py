"""What changed outside of the edit, where nobody says where that is: its place is estimated.

The estimate is made from the result itself: where it differs from the input more than elsewhere. So
a spill that is as strong as the edit is taken for a part of it, and only what is weaker, such as
the codec's loss, a colour cast or a smear, is seen outside. Read it beside the estimated area: an
editor that repaints everything has no outside at all.
"""

from collections.abc import Callable

import numpy as np

from kontext.data.quality.pixels import CHANGED_ABOVE
from kontext.evaluate.measures.base import Made, Mask, Measure, plain, resized
from kontext.evaluate.measures.pixels import (
    Pairwise,
    known,
    l1_within,
    psnr_within,
    similarity_within,
)
from kontext.evaluate.metrics.base import Card
from kontext.evaluate.pixels import Picture, blurred, grown

CHANGES_RESULTS = False  # for users; no stage runs a public bench

WHOLE = 0.8  # of the picture: a larger estimate leaves no outside to judge
_SMOOTH, _MARGIN = 1 / 64, 1 / 32  # of the shorter side
_CARD = Card(
    "kontext's own code, thresholds by OpenCV (Otsu)",
    resize="the result to the input's size, bicubic (Pillow)",
)


def estimated_mask(output: Picture, context: Picture) -> Mask:
    """Where an edit [H, W, 3] of a context seems to be, as bool [H, W] of the context's size.

    The largest difference of a channel is smoothed, split in two by Otsu's threshold, or by the
    difference that counts as a change at all where that is higher, and what is above grows by a
    margin.
    """
    import cv2

    shorter = min(context.shape[:2])
    apart = np.abs(resized(output, context).astype(np.int16) - context).max(axis=2)
    smooth = blurred(apart.astype(np.uint8)[None, ..., None], max(1.0, _SMOOTH * shorter))[
        0, ..., 0
    ]
    levels = smooth.round().astype(np.uint8)
    otsu, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    above: Mask = levels > max(float(otsu), CHANGED_ABOVE)
    found: Mask = grown(above[None], max(1, round(_MARGIN * shorter)))[0]
    return found


def _place(made: Made) -> Mask | None:
    context = made.context
    if context is None:
        return None
    return made.once("estimated", "mask", lambda: estimated_mask(made.output, context))


def _area(made: Made) -> float | None:
    mask = _place(made)
    return None if mask is None else float(mask.mean())


def _outside(measure: Pairwise) -> Callable[[Made], float | None]:
    def value(made: Made) -> float | None:
        mask = _place(made)
        if mask is None or made.context is None or mask.mean() > WHOLE:
            return None
        return known(measure(made.output, made.context, ~mask))

    return value


_WHERE = f"to the input, outside of the edit's estimated place, where that is under {WHOLE:.0%}"
MEASURES = {
    "edit_area": Measure(
        "area, est.",
        "%",
        "",
        "share of the picture that the edit seems to fill, estimated from the result",
        plain(_area, _CARD),
    ),
    "outside_est": Measure(
        "L1 outside, est.",
        "",
        "lower",
        f"mean absolute error {_WHERE}, 0 to 1",
        plain(_outside(l1_within), _CARD),
    ),
    "outside_est_psnr": Measure(
        "PSNR outside, est.",
        "dB",
        "higher",
        f"peak signal-to-noise ratio {_WHERE}",
        plain(_outside(psnr_within), _CARD),
    ),
    "outside_est_ssim": Measure(
        "SSIM outside, est.",
        "",
        "higher",
        f"structural similarity {_WHERE}",
        plain(_outside(similarity_within), _CARD),
    ),
}
