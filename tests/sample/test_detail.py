from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kontext.sample.detail import FAILS, RADIUS, colour_shift, fitness, give_back

RED, BLUE = torch.tensor([0.2, -0.3, -0.4]), torch.tensor([-0.3, -0.4, 0.2])


def blurred(picture: Tensor) -> Tensor:
    """What a poor autoencoder makes of a picture [B, 3, H, W]."""
    return F.avg_pool2d(picture, 3, 1, 1, count_include_pad=False)


def noise(seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 24, 24, generator=draw) * 2 - 1


def drawing(colour: Tensor, side: int = 48) -> Tensor:
    """A coloured disc with a white line through it on black, [1, 3, side, side]."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = (y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 3) ** 2
    picture = torch.where(disc, colour.view(3, 1, 1), torch.tensor(-1.0))
    picture[:, disc & (x == side // 2)] = 1.0
    return picture[None]


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def test_an_edit_that_changes_nothing_gives_the_context_itself() -> None:
    context = noise(0)
    torch.testing.assert_close(give_back(blurred(context), blurred(context), context), context)
    flat = torch.zeros_like(context)  # an autoencoder that keeps nothing
    torch.testing.assert_close(give_back(flat, flat, context), context)


def test_another_colour_keeps_edges_and_lines() -> None:
    context, wanted = drawing(RED), drawing(BLUE)
    out = give_back(blurred(wanted), blurred(context), context)
    assert error(out, wanted) < 0.4 * error(blurred(wanted), wanted)


def test_blotches_of_the_edit_are_evened_out() -> None:
    context, wanted = drawing(RED), drawing(BLUE)
    blotches = F.interpolate(0.3 * noise(1)[:1, :, :12, :12], scale_factor=4, mode="bilinear")
    edited = blurred(wanted) + blotches
    out = give_back(edited, blurred(context), context)
    assert error(out, wanted) < 0.75 * error(edited, wanted)


def test_what_is_new_stays_as_decoded_and_the_rest_is_the_contexts() -> None:
    context = noise(2)
    edited = blurred(context)
    edited[..., :10] = noise(3)[..., :10]  # another picture there
    out = give_back(edited, blurred(context), context)
    assert error(out[..., :6], edited[..., :6]) < 0.2 * error(context, edited)
    one = drawing(RED, side=64)
    new = blurred(one)
    new[..., :12] = 1.0
    out = give_back(new, blurred(one), one)
    torch.testing.assert_close(out[..., :6], new[..., :6], atol=0.1, rtol=0)
    far = 12 + RADIUS + 6
    torch.testing.assert_close(out[..., far:], one[..., far:], atol=1e-3, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-1, 1))
def test_a_mean_lies_between_nothing_and_an_even_difference(seed: int, shift: float) -> None:
    found = colour_shift(torch.full((2, 3, 24, 24), shift), noise(seed))
    assert bool((found * shift >= 0).all() and (found.abs() <= abs(shift) + 1e-5).all())


def test_a_pixel_unlike_all_others_is_told_nothing_by_its_own_difference() -> None:
    guide, difference = torch.full((1, 3, 24, 24), -1.0), torch.zeros(1, 3, 24, 24)
    guide[..., 12, 12], difference[..., 12, 12] = 1.0, 0.7
    assert colour_shift(difference, guide)[0, 0, 12, 12] == 0


def test_a_mean_is_over_like_colours_only() -> None:
    guide = drawing(RED)
    red = (guide[:, :1] == RED[0]) & (guide[:, 1:2] == RED[1])
    difference = torch.where(red, 0.5, 0.0).expand(1, 3, -1, -1)
    found = colour_shift(difference, guide)
    assert float(found[:, :, ~red[0, 0]].abs().max()) < 1e-4
    assert float(found[:, :, red[0, 0]].min()) > 0.45


def test_a_worse_fit_counts_less() -> None:
    errors = torch.linspace(0, 1.2 * FAILS, 9).view(9, 1, 1, 1).expand(9, 3, 4, 4)
    share = fitness(errors)
    assert share.shape == (9, 1, 4, 4)
    assert share[0].min() == 1
    assert share[-1].max() == 0
    assert bool((share.diff(dim=0) <= 0).all())
