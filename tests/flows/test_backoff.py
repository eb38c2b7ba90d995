import pytest

from flows.backoff import Backoff


def test_the_pause_grows_to_its_limit_and_starts_again_on_news() -> None:
    backoff = Backoff(first=0.5, last=4.0, growth=2.0)
    assert [backoff.pause(False) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert backoff.pause(True) == pytest.approx(0.5)
    assert backoff.pause(False) == pytest.approx(1.0)
