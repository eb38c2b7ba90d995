"""Give an edit back what the autoencoder lost of the picture it edits.

All of an edited picture passes the autoencoder, which blurs also what the edit left alone or only
gave another colour. What an edit did to the decoded context is known, though: it is what leads from
there to the decoded edit. Where that is a linear function of each colour channel in a small window
(nothing changed, or colour and light did), the function is fitted on the decoded pair and applied
to the context itself, which has all of its detail. Where it is not (something else is there now),
the decoder's picture stands. FLUX.1's autoencoder loses so little that it matters little.

The fit is the guided filter's (He et al., arXiv 1505.00996); fitting an operator on a poor pair and
applying it to the good picture is bilateral guided upsampling's idea (Chen et al. 2016).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

RADIUS = 3  # pixels: the window is 7 x 7
_EPSILON = 1e-3  # variance in -1..1: flatter windows tell no gain, which is then 1
FITS, FAILS = 0.12, 0.36  # error of the fit in -1..1: below, the fit counts; above, the decoder
_REACH = 2  # pixels around a failure in which the decoder's picture counts too


def give_back(edited: Tensor, round_trip: Tensor, context: Tensor) -> Tensor:
    """The edit with the context's own detail, [B, 3, H, W] in about -1..1.

    Args:
        edited: the decoded edit [B, 3, H, W] in -1..1, of the context's size.
        round_trip: the context, encoded and decoded by the same autoencoder.
        context: the context itself.
    """
    gain, offset = fit_channels(round_trip, edited)
    share = fitness(edited - (gain * round_trip + offset))
    return edited.lerp(gain * context + offset, share)


def fit_channels(source: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset, like `source`, with made ~ gain * source + offset in every window.

    Ridge regression towards gain 1, so that what did not change is given back exactly.
    """
    mean_source, mean_made = _box(source), _box(made)
    covariance = _box(source * made) - mean_source * mean_made
    variance = _box(source * source) - mean_source * mean_source
    gain = (covariance + _EPSILON) / (variance + _EPSILON)
    return _box(gain), _box(mean_made - gain * mean_source)


def fitness(error: Tensor) -> Tensor:
    """How far the fit counts, [B, 1, H, W] in 0..1, for its error [B, 3, H, W]."""
    worst = error.abs().amax(dim=1, keepdim=True)
    around = F.max_pool2d(worst, 2 * _REACH + 1, stride=1, padding=_REACH)
    share = ((FAILS - around) / (FAILS - FITS)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _box(x: Tensor) -> Tensor:
    """Means over windows [B, C, H, W]; at the border, of what is inside the picture."""
    side = 2 * RADIUS + 1
    return F.avg_pool2d(x, side, stride=1, padding=RADIUS, count_include_pad=False)
