import pytest

from flows.backoff import next_pause


def test_the_pause_grows_to_its_limit_and_starts_again_on_news() -> None:
    pauses = [0.5]
    for changed in (False, False, True, False):
        pauses.append(next_pause(pauses[-1], changed, first=0.5, last=0.7))
    assert pauses == pytest.approx([0.5, 0.65, 0.7, 0.5, 0.65])
