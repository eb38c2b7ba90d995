import numpy as np
import pytest

from kontext.evaluate.public.measures import MEASURES, Made, _lab, measured, resized

BLACK, WHITE = np.zeros((8, 10, 3), np.uint8), np.full((8, 10, 3), 255, np.uint8)
EVERY = tuple(MEASURES)


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
