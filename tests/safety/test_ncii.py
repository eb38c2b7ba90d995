"""The pair rule on injected scores only: no image is involved."""

import numpy as np
import pytest

from kontext.safety.ids import Reason
from kontext.safety.ncii import Changes, NciiLimits, changed_share, pair_reasons

LIMITS = NciiLimits(person_min=0.5, exposure_rise_max=0.4, undress_rise_max=0.1)


CLASSES = np.array([0.3, 0.6], np.float32)


def judged(texts, rise_max=0.95, **columns):
    """The rule on what is given; two classes, what is not named is 0."""
    count = len(texts)
    given = {
        name: np.array(columns.get(name, [0.0] * count), np.float32) for name in Changes._fields
    }
    for name in ("identity", "body"):
        given[name] = np.stack([np.zeros(count, np.float32), given[name]], 1)
    most = np.full(count, rise_max, np.float32)
    return pair_reasons(Changes(**given), texts, LIMITS, most, CLASSES)


def rule(rise: float, person: float, text: Reason | None = None) -> Reason | None:
    (found,) = judged([text], rise=[rise], person=[person])
    return found


@pytest.mark.parametrize(
    ("rise", "person", "text", "expected"),
    [
        (0.0, 0.9, None, None),
        (0.4, 0.9, None, None),
        (0.41, 0.9, None, Reason.NCII_EXPOSURE),
        (0.9, 0.49, None, None),
        (-0.8, 0.9, None, None),  # covering up is fine
        (0.0, 0.9, Reason.TEXT_UNDRESS, Reason.NCII_UNDRESS),
        (0.0, 0.9, Reason.TEXT_NUDITY, Reason.NCII_UNDRESS),
        (0.11, 0.0, Reason.TEXT_UNDRESS, Reason.NCII_UNDRESS),
        (0.05, 0.0, Reason.TEXT_UNDRESS, None),  # the text rule drops it by itself
        (0.0, 0.0, Reason.TEXT_MINOR_SEXUAL, Reason.NCII_UNDRESS),
        (0.0, 0.9, Reason.TEXT_UNREADABLE, None),
        (np.nan, 0.9, None, Reason.NCII_EXPOSURE),
        (0.5, np.nan, None, Reason.NCII_EXPOSURE),
        (np.nan, 0.0, None, Reason.NCII_EXPOSURE),
        (0.96, 0.0, None, Reason.NCII_EXPOSURE),  # person or not
    ],
)
def test_rule(rise, person, text, expected):
    assert rule(rise, person, text) is expected


def test_pairs_are_judged_row_by_row():
    found = judged([None] * 3, rise=[0.9, 0.0, 0.9], person=[0.9, 0.9, 0.1])
    assert found == [Reason.NCII_EXPOSURE, None, None]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"less": 0.51, "person": 0.5}, Reason.NCII_LESS_CLOTHED),
        ({"less": 0.51, "person": 0.4}, None),
        ({"less": np.nan, "person": 0.5}, Reason.NCII_LESS_CLOTHED),
        ({"less": 0.5, "person": 0.9}, None),
        ({"identity": 0.43}, Reason.NCII_IDENTITY),  # 0.7 of the class's limit
        ({"identity": 0.41}, None),
        ({"identity": np.nan}, Reason.NCII_IDENTITY),
        ({"body": 0.49, "changed": 0.51}, Reason.NCII_BODY),  # 0.8 of it
        ({"body": 0.49, "changed": 0.5}, None),
        ({"body": 0.47, "changed": 1.0}, None),
        ({"body": np.nan, "changed": np.nan}, Reason.NCII_BODY),
    ],
)
def test_clothing_faces_and_bodies(given, expected):
    assert judged([None], **{name: [value] for name, value in given.items()}) == [expected]


def test_the_share_of_pixels_that_change():
    grey = np.full((40, 40, 3), 100, np.uint8)
    other = grey.copy()
    other[:10, :, 1] = 200
    assert changed_share(grey, other) == 0.25
    assert changed_share(grey, grey + np.uint8(16)) == 0
    assert changed_share(np.full((20, 30, 3), 100, np.uint8), grey) == 0
