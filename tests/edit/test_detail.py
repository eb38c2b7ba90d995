import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kontext.edit.detail import LOOSE, SPACE, STRICT, colour_shift, fitness, restore_detail

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
    torch.testing.assert_close(restore_detail(blurred(context), blurred(context), context), context)
    flat = torch.zeros_like(context)  # an autoencoder that keeps nothing
    torch.testing.assert_close(restore_detail(flat, flat, context), context)


def test_another_colour_keeps_edges_and_lines() -> None:
    context, wanted = drawing(RED), drawing(BLUE)
    out = restore_detail(blurred(wanted), blurred(context), context)
    assert error(out, wanted) < 0.43 * error(blurred(wanted), wanted)


def test_blotches_of_the_edit_are_evened_out() -> None:
    context, wanted = drawing(RED), drawing(BLUE)
    blotches = F.interpolate(0.3 * noise(1)[:1, :, :12, :12], scale_factor=4, mode="bilinear")
    edited = blurred(wanted) + blotches
    out = restore_detail(edited, blurred(context), context)
    assert error(out, wanted) < 0.75 * error(edited, wanted)


def test_what_is_new_stays_as_decoded_and_the_rest_is_the_contexts() -> None:
    context = noise(2)
    edited = blurred(context)
    edited[..., :10] = noise(3)[..., :10]  # another picture there
    out = restore_detail(edited, blurred(context), context)
    assert error(out[..., :6], edited[..., :6]) < 0.2 * error(context, edited)
    one = drawing(RED, side=64)
    new = blurred(one)
    new[..., :12] = 1.0
    out = restore_detail(new, blurred(one), one)
    torch.testing.assert_close(out[..., :6], new[..., :6], atol=0.1, rtol=0)
    torch.testing.assert_close(out[..., 20:], one[..., 20:], atol=1e-3, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-1, 1))
def test_a_mean_lies_between_nothing_and_an_even_difference(seed: int, shift: float) -> None:
    found = colour_shift(torch.full((2, 3, 24, 24), shift), noise(seed))
    assert bool((found * shift >= -1e-6).all() and (found.abs() <= abs(shift) + 1e-5).all())


def test_a_pixel_unlike_all_others_is_told_nothing_by_its_own_difference() -> None:
    guide, difference = torch.full((1, 3, 24, 24), -1.0), torch.zeros(1, 3, 24, 24)
    guide[..., 12, 12], difference[..., 12, 12] = 1.0, 0.7
    assert abs(float(colour_shift(difference, guide)[0, 0, 12, 12])) < 0.02  # it is one of 49


def test_a_mean_is_over_like_colours_only() -> None:
    guide = drawing(RED)
    red = (guide[:, :1] == RED[0]) & (guide[:, 1:2] == RED[1])
    difference = torch.where(red, 0.5, 0.0).expand(1, 3, -1, -1)
    found = colour_shift(difference, guide)
    line = guide[0, 0] == 1.0  # thin: of its 30 pixels most are far, and all next to them are red
    assert float(found[:, :, ~red[0, 0] & ~line].abs().max()) < 2.5e-4
    assert float(found[:, :, line].abs().max()) < 0.1
    assert float(found[:, :, red[0, 0]].min()) > 0.45


def test_the_mean_of_a_colour_may_differ_from_place_to_place() -> None:
    side = int(4 * SPACE)
    guide, difference = torch.zeros(1, 3, 20, side), torch.zeros(1, 3, 20, side)
    difference[..., : side // 2] = 0.1
    difference[..., side // 2 :] = -0.1
    found = colour_shift(difference, guide)
    assert float(found[..., :20].min()) > 0.08 and float(found[..., -20:].max()) < -0.08


def test_colours_that_nothing_else_has_change_with_what_is_next_to_them() -> None:
    guide = torch.linspace(-1, 1, 32).view(1, 1, 32, 1).expand(1, 3, 32, 32).clone()
    guide[:, 0, 16, 16] = -1.0  # a colour of its own
    found = colour_shift(torch.full_like(guide, 0.4), guide)
    torch.testing.assert_close(found[0, :, 16, 16], torch.full((3,), 0.4), atol=1e-3, rtol=0)


def test_what_appears_in_a_colour_does_not_tint_the_rest_of_it() -> None:
    guide, difference = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    difference[..., :24, :24] = 0.8  # a seventh of the sky is a bird now
    found = colour_shift(difference, guide)
    assert float(found.abs().max()) < 0.01


def test_a_worse_fit_counts_less() -> None:
    errors = torch.linspace(0, 1.1 * LOOSE.colour[1], 12).view(12, 1, 1, 1).expand(12, 3, 9, 9)
    share = fitness(errors, torch.zeros(1))
    assert share.shape == (12, 1, 9, 9)
    assert share[0].min() == 1
    assert share[-1].max() == 0
    assert bool((share.diff(dim=0) <= 0).all())


def test_only_a_recolouring_may_be_uneven() -> None:
    """The same unevenness, in a picture that has the shift elsewhere, and in one that has not."""
    shift = torch.full((1, 3, 32, 64), 0.5)
    uneven = shift.clone()
    uneven[..., :10] += 0.5 * sum(LOOSE.colour) - 0.4
    assert float(fitness(uneven, shift)[..., :6].min()) > 0.7
    other = uneven.clone()
    other[..., 16:] = -1.0  # something else is there
    assert float(fitness(other, shift)[..., :6].max()) < 0.5
    even = shift.clone()
    even[..., 16:] = -1.0
    assert float(fitness(even, shift)[..., :6].min()) == 1  # what fits does so beside it too


def test_structure_that_the_fit_lacks_is_the_decoders() -> None:
    shift = torch.zeros(1, 3, 32, 32)
    line = shift.clone()
    line[..., 15:17] = 0.72  # thin: as an error of the mean it would count more than half
    assert float(blurred(line).max()) < sum(STRICT.colour) / 2
    share = fitness(line, shift)
    assert float(share[..., 15:17].max()) < 0.4 and float(share[..., :8].min()) == 1


def test_pictures_of_a_batch_have_the_bits_they_have_alone() -> None:
    contexts = torch.cat((drawing(RED), drawing(BLUE)))
    edited = blurred(contexts.flip(0))
    together = restore_detail(edited, blurred(contexts), contexts)
    for number in range(2):
        row = slice(number, number + 1)
        alone = restore_detail(edited[row], blurred(contexts[row]), contexts[row])
        assert torch.equal(alone, together[row])
