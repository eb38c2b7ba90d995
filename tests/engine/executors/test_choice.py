import sys

import pytest

from kontext.engine.chunks import map_chunks
from kontext.engine.executors.choice import Choice, choice
from kontext.errors import EngineError
from kontext.store.objects import ObjectStore
from tests.store import chunk_work


@pytest.mark.parametrize(
    ("engine", "memory", "meant"),
    [
        ("", "", Choice(ray=False)),
        ("processes", "4GB", Choice(ray=False, memory=4_000_000_000)),
        ("ray", "512MiB", Choice(ray=True, memory=512 << 20)),
        ("ray://head.ray:10001", "", Choice(ray=True, address="ray://head.ray:10001")),
        ("10.0.0.1:6379", "2000000000", Choice(True, "10.0.0.1:6379", 2_000_000_000)),
    ],
)
def test_two_settings_say_where_work_runs(
    engine: str, memory: str, meant: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_ENGINE", engine)
    monkeypatch.setenv("KONTEXT_WORKER_MEMORY", memory)
    assert choice() == meant


@pytest.mark.parametrize(
    ("name", "said", "why"),
    [
        ("KONTEXT_ENGINE", "Ray cluster", "'processes', 'ray', 'ray://host:10001'"),
        ("KONTEXT_ENGINE", "dask://host:1", "'processes', 'ray', 'ray://host:10001'"),
        ("KONTEXT_WORKER_MEMORY", "much", "a size such as 4GB"),
        ("KONTEXT_WORKER_MEMORY", "4", "for itself alone"),
    ],
)
def test_what_they_cannot_mean_is_an_error_before_any_work(
    name: str, said: str, why: str, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, said)
    with pytest.raises(EngineError, match=why):
        map_chunks(chunk_work.table_of, [{"seed": 1}], objects=objects, prefix="w")


def test_without_ray_it_is_said_what_to_install(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_ENGINE", "ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"pip install 'kontext\[ray\]'"):
        map_chunks(chunk_work.table_of, [{"seed": 1}], objects=objects, prefix="w")
