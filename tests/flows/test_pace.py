from __future__ import annotations

import pytest

from flows.pace import Pace


def test_the_pause_grows_to_its_limit_and_starts_again_on_news() -> None:
    pace = Pace(first=0.5, last=4.0, growth=2.0)
    assert [pace.wait(False) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert pace.wait(True) == pytest.approx(0.5)
    assert pace.wait(False) == pytest.approx(1.0)
