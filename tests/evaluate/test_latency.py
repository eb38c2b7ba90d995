import itertools

import pytest

from kontext.evaluate import latency
from kontext.evaluate.latency import WARM_UP, measure


def test_median_and_p90_of_warm_runs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [9.0, 1.0, 2.0, 3.0, 4.0]  # seconds of the five timed runs, in any order
    ticks = itertools.accumulate(itertools.chain.from_iterable((100.0, d) for d in durations))
    calls: list[int] = []
    monkeypatch.setattr(latency, "RUNS", 5)
    monkeypatch.setattr(latency, "perf_counter", lambda: next(ticks))
    timing = measure("x", "X", lambda: calls.append(1), 7)
    assert len(calls) == WARM_UP + 5
    assert timing.median_ms == 3000.0
    assert timing.p90_ms == 7000.0  # linear between 4 s and 9 s
    assert timing.p99_ms == 8800.0
    assert (timing.runs, timing.nfe) == (5, 7)


def test_what_is_fast_is_timed_a_hundred_times(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(step=0.001)
    monkeypatch.setattr(latency, "perf_counter", lambda: next(ticks))
    assert measure("x", "X", lambda: None).runs == latency.MOST
