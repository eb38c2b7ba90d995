"""Pair scores of how a target lies on its context, against what was done to it."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.pixels import Pixels
from kontext.data.quality.geometry import (
    FLAT,
    OK,
    UNRELATED,
    largest_blob,
    movement,
    sharpness,
)
from kontext.data.quality.pixels import quality
from tests.data.pictures import scene

SIDES = st.sampled_from([48, 64, 96, 200, 512])
NUMBERS = st.integers(0, 10_000)


def drawn(number: int, side: int) -> Pixels:
    """A smooth picture with fourteen discs and boxes in it."""
    rng, picture = np.random.default_rng(number), scene(number, side).copy()
    for disc in rng.random(14) < 0.5:
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        x, y = (int(value) for value in rng.integers(0, side, 2))
        size = int(rng.integers(side // 16, side // 5))
        if disc:
            cv2.circle(picture, (x, y), size, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(picture, (x, y), (x + size, y + size), colour, -1)
    return picture


def window(picture: Pixels, right: int, down: int, side: int) -> Pixels:
    """What is seen of a larger picture, moved by so many pixels."""
    edge = (len(picture) - side) // 2
    rows, columns = edge - down, edge - right
    return np.ascontiguousarray(picture[rows : rows + side, columns : columns + side])


@settings(max_examples=25, deadline=None)
@given(NUMBERS, SIDES)
def test_a_picture_lies_on_itself(number: int, side: int) -> None:
    picture = drawn(number, side)
    assert movement(picture, picture) == (0.0, OK)
    assert sharpness(picture, picture) == 0.0
    assert quality(picture[None], picture[None]).largest_blob[0] == 0.0


@settings(max_examples=40, deadline=None)
@given(NUMBERS, SIDES, st.integers(-6, 6), st.integers(-6, 6))
def test_a_shift_is_found_within_half_a_pixel(number: int, side: int, x: int, y: int) -> None:
    large = drawn(number, side + 24)
    context, target = window(large, 0, 0, side), window(large, x, y, side)
    found = movement(context, target)
    assert found.status == OK
    assert found.share * side == pytest.approx(np.hypot(x, y), abs=0.5)


@settings(max_examples=20, deadline=None)
@given(NUMBERS, st.sampled_from([96, 200]), st.floats(-8, 8), st.floats(0.9, 1.1))
def test_turn_and_zoom_are_found(number: int, side: int, degrees: float, zoom: float) -> None:
    picture, middle = drawn(number, side), ((side - 1) / 2, (side - 1) / 2)
    warp = cv2.getRotationMatrix2D(middle, degrees, zoom)
    target = cv2.warpAffine(picture, warp, (side, side), borderMode=cv2.BORDER_REFLECT)
    ends = np.array([(x, y, 1) for x in (0, side - 1) for y in (0, side - 1)])
    moved = np.linalg.norm(ends @ warp.T - ends[:, :2], axis=1).mean()
    assert movement(picture, target).share * side == pytest.approx(moved, abs=1.0)


@settings(max_examples=20, deadline=None)
@given(NUMBERS, st.sampled_from([64, 200]))
def test_edits_move_nothing(number: int, side: int) -> None:
    """A new patch of a quarter of the picture, other colours, a negative, another brightness."""
    picture, half = drawn(number, side), side // 2
    patched = picture.copy()
    patched[half // 2 :, half // 3 :][:half, :half] = drawn(number + 1, half)
    edits = [patched, picture[..., [2, 0, 1]], 255 - picture, picture // 2 + 60]
    for edit in edits:
        found = movement(picture, np.ascontiguousarray(edit))
        assert found.share == 0 or found.status == UNRELATED


def test_what_cannot_be_told_says_why() -> None:
    flat = np.full((64, 64, 3), 200, np.uint8)
    assert movement(flat, drawn(0, 64)).status == movement(flat, flat).status == FLAT
    assert np.isnan(movement(flat, flat).share) and np.isnan(sharpness(flat, flat))
    found = [movement(drawn(n, 96), drawn(n + 50, 96)) for n in range(10)]
    assert [one.status for one in found] == [UNRELATED] * 10
    assert all(np.isnan(one.share) for one in found)


def test_the_same_with_any_number_of_threads() -> None:
    large, before, found = drawn(3, 536), cv2.getNumThreads(), set()
    context, target = window(large, 0, 0, 512), window(large, 5, -3, 512)
    try:
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            found.add((movement(context, target), sharpness(context, target)))
    finally:
        cv2.setNumThreads(before)
    assert len(found) == 1


@settings(max_examples=25, deadline=None)
@given(NUMBERS, SIDES, st.floats(0.6, 3))
def test_blur_lowers_sharpness_and_its_inverse_raises_it(
    number: int, side: int, sigma: float
) -> None:
    picture = drawn(number, side)
    soft = cv2.GaussianBlur(picture, (0, 0), sigma)
    found = sharpness(picture, soft)
    assert -20 < found < -0.5
    assert sharpness(soft, picture) == -found
    if sigma < 1.5:  # stronger blur takes blocks out of the comparison
        assert sharpness(picture, cv2.GaussianBlur(picture, (0, 0), sigma + 1)) < found


@settings(max_examples=20, deadline=None)
@given(NUMBERS)
def test_a_local_edit_is_no_change_of_sharpness(number: int) -> None:
    picture = drawn(number, 128)
    edited = picture.copy()
    edited[32:80, 32:80] = drawn(number + 1, 48)
    assert abs(sharpness(picture, edited)) < 0.3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 18), st.integers(1, 18))
def test_the_largest_blob_is_the_largest_rectangle(x: int, y: int, width: int, height: int) -> None:
    """Beside it a smaller one, that touches it at a corner at most."""
    context = scene(0).copy() // 2
    target = context.copy()
    target[y : y + height, x : x + width] += 100
    target[y + height : y + height + 1, x + width : x + width + 1] += 100
    found = quality(context[None], target[None])
    assert found.largest_blob[0] == pytest.approx(width * height / 64**2)
    assert found.changed_frac[0] > found.largest_blob[0]


def test_the_largest_blob_of_specks_is_one() -> None:
    changed = np.zeros((10, 20), bool)
    changed[::2, ::2] = True
    assert largest_blob(changed) == 1 / 200
    assert largest_blob(np.zeros((4, 4), bool)) == 0 and largest_blob(np.ones((4, 4), bool)) == 1
