from collections.abc import Callable

import pytest

from flows.server.settings import fresh_days, gpu_runs, zombie_seconds
from kontext.errors import KontextError


@pytest.mark.parametrize(
    ("read", "name", "default", "good", "bad"),
    [
        (gpu_runs, "KONTEXT_GPU_RUNS", 1, "3", ("0", "1.5", "many", "inf")),
        (zombie_seconds, "KONTEXT_ZOMBIE_SECONDS", 120, "10", ("9.9", "", "nan")),
        (fresh_days, "KONTEXT_FRESH_DAYS", 7, "0.5", ("0", "-1", "soon")),
    ],
)
def test_numbers_come_from_the_environment(
    read: Callable[[], float],
    name: str,
    default: float,
    good: str,
    bad: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(name, raising=False)
    assert read() == default
    monkeypatch.setenv(name, good)
    assert read() == float(good)
    for text in bad:
        monkeypatch.setenv(name, text)
        with pytest.raises(KontextError, match=f"{name} is '{text}', not "):
            read()
