from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kontext.sample.detail import FAILS, RADIUS, fit_channels, fitness, give_back


def pictures(seed: int) -> tuple[Tensor, Tensor]:
    """A context, and what a blurring autoencoder makes of it: [2, 3, 24, 24] in -1..1."""
    draw = torch.Generator().manual_seed(seed)
    context = torch.rand(2, 3, 24, 24, generator=draw) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(context, 3, 1, 1, count_include_pad=False)
    return context, blurred


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def test_an_edit_that_changes_nothing_gives_the_context_itself() -> None:
    context, blurred = pictures(0)
    torch.testing.assert_close(give_back(blurred, blurred, context), context)
    flat = torch.zeros_like(blurred)  # an autoencoder that keeps nothing
    torch.testing.assert_close(give_back(flat, flat, context), context)


def test_a_change_of_colour_and_light_keeps_the_detail_too() -> None:
    context, blurred = pictures(1)
    tone = torch.tensor([0.8, -0.5, 0.3]).view(1, 3, 1, 1)
    out = give_back(blurred * tone + 0.1, blurred, context)
    assert error(out, context * tone + 0.1) < 0.1 * error(blurred, context)


def test_what_is_new_stays_as_decoded_and_the_rest_is_the_contexts() -> None:
    context, blurred = pictures(2)
    edited = blurred.clone()
    edited[..., :10] = pictures(3)[0][..., :10]  # another picture there
    out = give_back(edited, blurred, context)
    assert error(out[..., :8], edited[..., :8]) < 0.1 * error(context, edited)
    far = 10 + 2 * RADIUS + 2
    assert error(out[..., far:], context[..., far:]) < 0.1 * error(blurred, context)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(-2, 2), st.floats(-1, 1))
def test_the_fit_finds_gain_and_offset(seed: int, gain: float, offset: float) -> None:
    source = pictures(seed)[0]
    found, moved = fit_channels(source, gain * source + offset)
    torch.testing.assert_close(found * source + moved, gain * source + offset, atol=0.02, rtol=0.02)


def test_a_worse_fit_counts_less() -> None:
    errors = torch.linspace(0, 1.2 * FAILS, 9).view(9, 1, 1, 1).expand(9, 3, 4, 4)
    share = fitness(errors)
    assert share.shape == (9, 1, 4, 4)
    assert share[0].min() == 1
    assert share[-1].max() == 0
    assert bool((share.diff(dim=0) <= 0).all())
