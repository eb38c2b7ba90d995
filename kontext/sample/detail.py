"""Give an edit back what the autoencoder lost of the picture it edits.

All of an edited picture passes the autoencoder, which blurs also what the edit left alone or only
gave another colour. What an edit did to the decoded context is known, though: the difference of the
two decoded pictures. Where the edit left things alone or recoloured them, that difference is the
same for all pixels nearby of the same colour, so its mean over these is taken and added to the
context itself, which has all of its detail. The mean also evens out the blotches of a small
model's edit. A pixel and those around it do not count in their own mean: it has to be foretold by
others. Where it does not explain the decoded edit (something else is there now), the decoder's
picture stands. FLUX.1's autoencoder loses so little that it matters little.

The mean is the joint bilateral filter's, of the difference guided by the context (Petschnigg et al.
2004, Eisemann and Durand 2004); finding an operator on a poor pair of pictures and applying it to
the good one is bilateral guided upsampling's idea (Chen et al. 2016).
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

RADIUS = 12  # pixels: one and a half latent cells, beyond what a wrong latent colours
_OWN = 1  # pixels around one that do not count in its mean
_NEAR = 6.0  # pixels: standard deviation of the weight by distance
_ALIKE = 0.1  # in -1..1: standard deviation of the weight by colour
_UNCHANGED = 1.0  # pixels' worth of prior that nothing changed
FITS, FAILS = 0.14, 0.38  # error of the fit in -1..1: below, the fit counts; above, the decoder
_REACH = 3  # pixels around a failure in which the decoder's picture counts too


def give_back(edited: Tensor, round_trip: Tensor, context: Tensor) -> Tensor:
    """The edit with the context's own detail, [B, 3, H, W] in about -1..1.

    Time is that of some 600 passes over the pictures.

    Args:
        edited: the decoded edit [B, 3, H, W] in -1..1, of the context's size.
        round_trip: the context, encoded and decoded by the same autoencoder.
        context: the context itself.
    """
    shift = colour_shift(edited - round_trip, context)
    share = fitness(edited - (round_trip + shift))
    return edited.lerp(context + shift, share)


def colour_shift(difference: Tensor, guide: Tensor) -> Tensor:
    """Means of `difference` [B, 3, H, W] over pixels nearby where `guide` has like colours.

    Nothing alike nearby: zero.
    """
    height, width = guide.shape[-2:]
    pad = (RADIUS, RADIUS, RADIUS, RADIUS)
    inside = F.pad(guide.new_ones(1, 1, height, width), pad)
    guides, differences = F.pad(guide, pad), F.pad(difference, pad)
    total, weights = torch.zeros_like(difference), torch.full_like(difference[:, :1], _UNCHANGED)
    for y, x in product(range(-RADIUS, RADIUS + 1), repeat=2):
        if max(abs(y), abs(x)) <= _OWN:
            continue
        top, left = y + RADIUS, x + RADIUS
        place = (..., slice(top, top + height), slice(left, left + width))
        unlike = (guides[place] - guide).square().sum(1, keepdim=True)
        far = 0.5 * (y * y + x * x) / _NEAR**2
        weight = unlike.mul_(-0.5 / _ALIKE**2).sub_(far).exp_() * inside[place]
        total.addcmul_(weight, differences[place])
        weights += weight
    return total / weights


def fitness(error: Tensor) -> Tensor:
    """How far the fit counts, [B, 1, H, W] in 0..1, for its error [B, 3, H, W]."""
    smooth = F.avg_pool2d(error, 3, stride=1, padding=1, count_include_pad=False)
    worst = smooth.abs().amax(dim=1, keepdim=True)
    around = F.max_pool2d(worst, 2 * _REACH + 1, stride=1, padding=_REACH)
    share = ((FAILS - around) / (FAILS - FITS)).clamp(0, 1)
    return share * share * (3 - 2 * share)
