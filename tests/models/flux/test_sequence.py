import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.models.flux.sequence import image_ids, pack, rope, sequence_ids, unpack

sides = st.integers(1, 6)


@settings(max_examples=30, deadline=None)
@given(sides, sides, st.integers(1, 5), st.integers(1, 3))
def test_packing_round_trip(h: int, w: int, channels: int, batch: int) -> None:
    latents = torch.arange(batch * channels * h * w * 4.0).view(batch, channels, 2 * h, 2 * w)
    tokens = pack(latents)
    assert tokens.shape == (batch, h * w, 4 * channels)
    assert torch.equal(unpack(tokens, h, w), latents)


def test_tokens_are_channel_major_and_row_major() -> None:
    latents = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    tokens = pack(latents)
    # second token of the first row: channel 0's 2x2 patch, then channel 1's
    assert tokens[0, 1].tolist() == [2, 3, 8, 9, 26, 27, 32, 33]
    assert tokens[0, 3, 0] == latents[0, 0, 2, 0]


def test_odd_latents_and_wrong_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="must be even"):
        pack(torch.zeros(1, 4, 3, 4))
    with pytest.raises(ValueError, match="do not make"):
        unpack(torch.zeros(1, 5, 8), 2, 3)


def test_ids_number_images_on_the_first_axis_and_restart_positions() -> None:
    ids = sequence_ids((2, 3), [(1, 2), (2, 1)])
    assert ids.dtype == torch.float32
    assert torch.equal(ids[:6], image_ids(2, 3))
    assert ids[6:].tolist() == [[1, 0, 0], [1, 0, 1], [2, 0, 0], [2, 1, 0]]
    assert ids[4].tolist() == [0, 1, 1]


def test_rope_tables() -> None:
    cos, sin = rope(torch.tensor([[0.0, 0, 0], [1, 2, 3]]), (4, 2, 6), 10_000)
    assert cos.shape == sin.shape == (2, 6)
    assert torch.equal(cos[0], torch.ones(6))
    assert torch.equal(sin[0], torch.zeros(6))
    angles = [1.0, 1 / 10_000**0.5, 2.0, 3.0, 3 / 10_000 ** (1 / 3), 3 / 10_000 ** (2 / 3)]
    for i, angle in enumerate(angles):
        assert cos[1, i].item() == pytest.approx(math.cos(angle), abs=1e-6)
        assert sin[1, i].item() == pytest.approx(math.sin(angle), abs=1e-6)


def test_rope_is_float32_whatever_the_autocast() -> None:
    ids = image_ids(3, 70)
    with torch.autocast("cpu", torch.bfloat16):
        inside = rope(ids, (8, 12, 12), 10_000)
    assert torch.equal(inside[0], rope(ids, (8, 12, 12), 10_000)[0])
