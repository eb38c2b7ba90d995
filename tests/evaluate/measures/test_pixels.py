from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from kontext.evaluate.measures import MEASURES, Made, estimated, paintbench, pixels
from kontext.evaluate.measures.base import resized
from kontext.evaluate.measures.estimated import estimated_mask
from kontext.evaluate.measures.paintbench import _lab

BLACK, WHITE = np.zeros((8, 10, 3), np.uint8), np.full((8, 10, 3), 255, np.uint8)
EVERY = (*pixels.MEASURES, *paintbench.MEASURES)


def measured(made: Made, names: Sequence[str]) -> dict[str, float | None]:
    return {name: MEASURES[name].open().value(made) for name in names}


def half() -> np.ndarray:
    """White above, black below."""
    picture = WHITE.copy()
    picture[4:] = 0
    return picture


def test_what_does_not_apply_has_no_value() -> None:
    assert measured(Made(WHITE), EVERY) == dict.fromkeys(EVERY)
    found = measured(Made(WHITE, context=WHITE), EVERY)
    assert {name for name, value in found.items() if value is not None} == {"changed", "copied"}


def test_distances_to_input_and_target_by_hand() -> None:
    mask = np.zeros((8, 10), bool)
    mask[:4] = True
    found = measured(Made(half(), context=BLACK, target=WHITE, mask=mask), EVERY)
    assert found["changed"] == 0.5 and found["copied"] == 0
    assert found["l1"] == 0.5 and found["l2"] == 0.5
    assert found["psnr"] == pytest.approx(10 * np.log10(2))
    assert found["outside"] == 0  # the lower half is as it was
    spilled = measured(Made(WHITE, context=BLACK, target=WHITE, mask=mask), EVERY)
    assert spilled["outside"] == 1 and spilled["l1"] == 0 and spilled["ssim"] == pytest.approx(1)
    assert measured(Made(BLACK, context=BLACK), ("copied",)) == {"copied": 1}


def test_iou_is_paintbenchs() -> None:
    def iou(output: np.ndarray) -> float | None:
        return measured(Made(output, context=BLACK, target=half()), ("iou",))["iou"]

    assert iou(BLACK) == 0  # nothing done
    assert iou(half()) == 1
    assert iou(WHITE) == 0.5  # 40 right pixels of the edit, 40 wrong ones outside
    # white is L* = 100, this is 96.0: wrong up to a threshold of 3, right from 4 on
    near = half()
    near[:4] = 244
    assert 3 < 100 - _lab(near)[0, 0, 0] < 4 and iou(near) == pytest.approx(7 / 11)
    large = np.repeat(np.repeat(half(), 3, axis=0), 3, axis=1)
    assert iou(large) == 1  # brought to the answer's size by nearest neighbours
    wide = np.concatenate([half()[:, :2], half(), half()[:, :2]], axis=1)
    assert iou(wide) == 1  # its middle is taken


def test_colours_are_in_cie_lab() -> None:
    """Published values of sRGB's primaries and of middle grey, under D65."""
    picture = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]]], np.uint8)
    wanted = [(53.24, 80.09, 67.20), (87.73, -86.18, 83.18), (32.30, 79.19, -107.86), (53.59, 0, 0)]
    assert np.abs(_lab(picture)[0] - wanted).max() < 0.02


def test_pictures_of_another_size_are_brought_to_the_targets() -> None:
    assert resized(WHITE, np.zeros((16, 20, 3), np.uint8)).shape == (16, 20, 3)
    found = measured(Made(WHITE, context=BLACK[:4], target=WHITE[:5]), EVERY)
    assert found["l1"] == 0 and found["changed"] == 1 and found["iou"] is None


def test_masked_measures_are_those_of_the_masked_part() -> None:
    rng = np.random.default_rng(0)
    context, target = rng.integers(0, 256, (2, 40, 30, 3), np.uint8)
    output = target.copy()
    output[:20] = context[:20] // 2
    mask = np.zeros((40, 30), bool)
    mask[20:] = True
    found = measured(Made(output, context, target, mask), tuple(pixels.MEASURES))
    assert found["inside"] == 0 and found["inside_psnr"] == 100
    assert found["inside_ssim"] is not None and found["inside_ssim"] > found["ssim"]
    error = np.abs(output[:20].astype(float) - context[:20]) / 255
    assert found["outside"] == pytest.approx(error.mean())
    assert found["outside_psnr"] == pytest.approx(-10 * np.log10((error**2).mean()))
    assert found["outside_ssim"] is not None and 0 < found["outside_ssim"] < 1
    nowhere = measured(Made(output, context, target, ~mask & mask), ("inside", "outside"))
    assert nowhere["inside"] is None and nowhere["outside"] is not None


def planted(noise: int, box: tuple[slice, slice]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture, and an edit of it: another colour in a box, noise of a codec everywhere."""
    rng = np.random.default_rng(1)
    context = rng.integers(90, 130, (96, 128, 3), np.uint8)
    output = context.astype(int) + rng.integers(-noise, noise + 1, context.shape)
    output[box] = (230, 40, 40)
    return context, output.astype(np.uint8)


def test_the_place_of_an_edit_is_estimated_and_what_is_lost_outside_is_measured() -> None:
    box = slice(30, 62), slice(40, 80)
    for noise in (0, 4):
        context, output = planted(noise, box)
        mask = estimated_mask(output, context)
        assert mask[box].all(), "the whole edit is in it"
        assert mask.mean() < 2.2 * (32 * 40) / (96 * 128), "and little else"
        found = measured(Made(output, context), tuple(estimated.MEASURES))
        assert found["edit_area"] == pytest.approx(mask.mean())
        true = np.abs(output.astype(float) - context)[~mask].mean() / 255
        assert found["outside_est"] == pytest.approx(true)
        assert (found["outside_est"] == 0) == (noise == 0)
        assert found["outside_est_ssim"] is not None and found["outside_est_ssim"] > 0.8


def test_nothing_done_has_no_place_and_a_new_picture_no_outside() -> None:
    context, _ = planted(0, (slice(0), slice(0)))
    found = measured(Made(context, context), tuple(estimated.MEASURES))
    assert (
        found["edit_area"] == 0 and found["outside_est"] == 0 and found["outside_est_psnr"] == 100
    )
    other = measured(Made(255 - context // 2, context), tuple(estimated.MEASURES))
    assert other["edit_area"] is not None and other["edit_area"] > 0.8
    assert other["outside_est"] is other["outside_est_ssim"] is None


def test_every_measure_has_a_card_that_says_what_the_number_is_of() -> None:
    for name in (*EVERY, *estimated.MEASURES):
        card = MEASURES[name].open().card
        assert card.version and card.resize and card.dtype, name
        assert card.said.startswith(card.version) and "range" in card.said
