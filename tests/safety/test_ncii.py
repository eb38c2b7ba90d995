"""The pair rule on injected scores only: no image is involved."""

import numpy as np
import pytest

from kontext.safety.ids import Reason
from kontext.safety.ncii import NciiLimits, pair_reasons

LIMITS = NciiLimits(person_min=0.5, exposure_rise_max=0.4, undress_rise_max=0.1)


def rule(rise: float, person: float, text: Reason | None = None) -> Reason | None:
    (found,) = pair_reasons(np.array([rise]), np.array([person]), [text], LIMITS)
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
        (np.nan, 0.0, None, None),
    ],
)
def test_rule(rise, person, text, expected):
    assert rule(rise, person, text) is expected


def test_pairs_are_judged_row_by_row():
    found = pair_reasons(np.array([0.9, 0.0, 0.9]), np.array([0.9, 0.9, 0.1]), [None] * 3, LIMITS)
    assert found == [Reason.NCII_EXPOSURE, None, None]
