import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.sources.signs import SignSource
from kontext.engine.chunks import clear_work, kept_unless_gated, map_chunks, stable_digest
from kontext.errors import CanaryError, ChunkError
from kontext.store.objects import ObjectStore, open_store
from kontext.store.parquet import parquet_bytes, read_parquet
from tests.store import chunk_work

ROOT = Path(__file__).parents[2]


def stored(objects: ObjectStore) -> dict[str, bytes]:
    return {key: objects.get(key) for key in objects.list("w/")}


def test_results_are_in_plan_order_and_single_threaded(objects: ObjectStore) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    seen: list[tuple[int, int]] = []
    chunks = [{"seed": seed} for seed in (5, 3, 9, 1)]
    results = map_chunks(
        chunk_work.table_of,
        chunks,
        2,
        objects=objects,
        prefix="w",
        on_done=lambda done, total: seen.append((done, total)),
    )
    assert [r["rows"]["seed"][0].as_py() for r in results] == [5, 3, 9, 1]
    assert {r["threads"]["omp"][0].as_py() for r in results} == {"1"}
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert list(results[0]) == ["rows", "threads"]
    with pytest.raises(KeyError):
        results[0]["other"]


def test_finished_chunks_are_not_run_again(objects: ObjectStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    chunks = [(n, str(log)) for n in range(4)]
    map_chunks(chunk_work.logged, chunks[:2], objects=objects, prefix="w")
    first = stored(objects)
    objects.delete(next(k for k in first if k.startswith("w/000001") and k.endswith("done.json")))
    map_chunks(chunk_work.logged, chunks, objects=objects, prefix="w")
    assert log.read_text().split() == ["0", "1", "1", "2", "3"]
    assert "w/begun" not in first
    assert {k: v for k, v in stored(objects).items() if k in first} == first
    clear_work(objects, "w")
    assert stored(objects) == {}


def test_another_plan_shares_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    map_chunks(chunk_work.logged, [(1, str(log))], objects=objects, prefix="w")
    (result,) = map_chunks(chunk_work.logged, [(2, str(log))], objects=objects, prefix="w")
    assert result["rows"]["n"].to_pylist() == [2]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failing_chunk_names_itself_and_keeps_the_others(
    objects: ObjectStore, processes: int
) -> None:
    with pytest.raises(ChunkError, match="chunk 3 of 5 failed: FileNotFoundError") as caught:
        map_chunks(
            chunk_work.fails_at_three, list(range(5)), processes, objects=objects, prefix="w"
        )
    assert caught.value.index == 3
    done = {key.split("-")[0] for key in objects.list("w/") if key.endswith("done.json")}
    assert {"w/000000", "w/000001", "w/000002"} <= done and "w/000003" not in done


@pytest.mark.parametrize("processes", [1, 3])
def test_a_gate_that_fails_in_a_chunk_leaves_no_chunk(objects: ObjectStore, processes: int) -> None:
    """Others may be under way: what they write afterwards is not left either."""
    with pytest.raises(CanaryError, match=r"^let through$"):
        map_chunks(chunk_work.gated, range(6), processes, objects=objects, prefix="w")
    assert not stored(objects)
    objects.put("w/else", b"x")
    with pytest.raises(ValueError, match="no gate"), kept_unless_gated(objects, "w"):
        raise ValueError("no gate")
    assert stored(objects)


def test_a_chunk_that_costs_three_workers_is_an_error_not_a_hang(objects: ObjectStore) -> None:
    with pytest.raises(ChunkError, match="chunk 1 of 3 cost 3 workers: it was killed"):
        map_chunks(chunk_work.dies_at_one, [0, 1, 2], 2, objects=objects, prefix="w")
    done = {key.split("-")[0] for key in objects.list("w/") if key.endswith("done.json")}
    assert done == {"w/000000", "w/000002"}


def _items(**more: object) -> list[chunk_work.Items]:
    numbers = [tuple(range(start, start + 5)) for start in (0, 5, 10)]
    return [chunk_work.Items(own, **more) for own in numbers]  # type: ignore[arg-type]


def _numbers(results: Sequence[Mapping[str, pa.Table]]) -> list[int]:
    return [number for result in results for number in result["rows"]["n"].to_pylist()]


def test_a_lost_worker_s_chunk_is_done_again(
    objects: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = _items(once=7, folder=str(tmp_path))
    with caplog.at_level("INFO", "kontext"):
        results = map_chunks(chunk_work.counted, chunks, 2, objects=objects, prefix="w")
    assert _numbers(results) == list(range(15))
    assert "chunk 1: its worker was lost: it was killed" in caplog.text
    # what workers log is in the stage's log
    assert [r.message for r in caplog.records if r.name == "kontext.test"].count(
        "chunk 2: numbers from 10 on"
    ) == 1


def test_an_item_that_costs_workers_costs_only_itself(objects: ObjectStore) -> None:
    results = map_chunks(chunk_work.counted, _items(deadly=8), 2, objects=objects, prefix="w")
    assert _numbers(results) == [*range(8), -8, *range(9, 15)]


def test_parts_of_a_chunk_are_kept_too(objects: ObjectStore, tmp_path: Path) -> None:
    """Where the run ends between two parts, those that are done are not done again."""
    chunk, other = chunk_work.Items((1, 2, 3), deadly=3), chunk_work.Items((4,))
    map_chunks(chunk_work.counted, [chunk, other], 2, objects=objects, prefix="w")
    before = stored(objects)
    (half,) = {  # number 1 of the first chunk
        key.rpartition("/")[0]
        for key in before
        if key.startswith("w/000000")
        and key.endswith("rows.parquet")
        and read_parquet(before[key])["n"].to_pylist() == [1]
    }
    whole = next(k for k in before if k.startswith("w/000000") and len(_rows(before, k)) == 3)
    objects.delete(f"{whole.rpartition('/')[0]}/done.json")
    objects.put(f"{half}/rows.parquet", parquet_bytes(pa.table({"n": [10]})))
    objects.put("w/begun", b"")  # one chunk alone would be done in this process, and end it
    results = map_chunks(chunk_work.counted, [chunk, other], 2, objects=objects, prefix="w")
    assert _numbers(results) == [10, 2, -3, 4]


def _rows(found: Mapping[str, bytes], key: str) -> list[int]:
    return read_parquet(found[key])["n"].to_pylist() if key.endswith("rows.parquet") else []


_ALONE = """
import sys
from tests.store import chunk_work
from kontext.store.objects import open_store
from kontext.engine.chunks import map_chunks
if __name__ == "__main__":
    chunk = chunk_work.Items((1, 2, 3), deadly=2)
    (result,) = map_chunks(chunk_work.counted, [chunk], objects=open_store(sys.argv[1]), prefix="w")
    print(result["rows"]["n"].to_pylist())
"""


def test_what_a_run_without_workers_has_died_of_is_left_to_a_worker(
    objects: ObjectStore, tmp_path: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(_ALONE)
    command = [sys.executable, str(script), objects.url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    again = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    assert again.stdout.strip() == "[1, -2, 3]"


def test_when_every_item_costs_workers_it_is_not_the_items(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kontext.engine.chunks._MOST_GIVEN_UP", 0)
    chunks = [chunk_work.Items((number,), deadly=number) for number in range(2)]
    with pytest.raises(ChunkError, match="more than 0 items, so it is not the items"):
        map_chunks(chunk_work.counted, chunks, 2, objects=objects, prefix="w")


def test_a_worker_gets_no_more_memory_than_is_said(
    objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_WORKER_MEMORY", "2GB")
    results = map_chunks(chunk_work.greedy, _items(deadly=3), 2, objects=objects, prefix="w")
    assert _numbers(results) == [0, 1, 2, -3, *range(4, 15)]


_RUN = """
import sys
from tests.store import chunk_work
from kontext.store.objects import open_store
from kontext.engine.chunks import map_chunks
if __name__ == "__main__":
    chunks = [(n, sys.argv[2]) for n in range(5)]
    map_chunks(chunk_work.slow, chunks, 2, objects=open_store(sys.argv[1]), prefix="w")
"""


def test_kill_9_loses_only_running_chunks_and_resumes_to_the_same_bytes(
    objects: ObjectStore, tmp_path: Path
) -> None:
    log, script = tmp_path / "pids", tmp_path / "run.py"
    script.write_text(_RUN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), objects.url, str(log)]
    run = subprocess.Popen(command, env=environment)
    _until(lambda: log.exists() and len(log.read_text().split()) >= 4)
    run.send_signal(signal.SIGKILL)
    run.wait()
    workers = {int(pid) for pid in log.read_text().split()}
    _until(lambda: not any(_alive(pid) for pid in workers))
    survived = stored(objects)
    assert sum(key.endswith("done.json") for key in survived) == 2

    log.with_suffix(".go").touch()
    subprocess.run(command, env=environment, check=True)
    assert len(log.read_text().split()) == 4 + 3  # two were done, three were run (again)
    resumed = stored(objects)
    assert {key: resumed[key] for key in survived} == survived

    undisturbed = open_store(f"file://{tmp_path}/other")
    chunks = [(n, str(log)) for n in range(5)]
    map_chunks(chunk_work.slow, chunks, objects=undisturbed, prefix="w")
    rows = {k: v for k, v in resumed.items() if k.endswith(("rows.parquet", "done.json"))}
    assert rows == {k: v for k, v in stored(undisturbed).items() if k in rows}
    assert len(rows) == 10


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def _until(condition: object, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@dataclass
class _Plan:
    names: tuple[str, ...]
    source: SignSource


def test_digests_do_not_depend_on_identity_or_order_of_sets() -> None:
    assert stable_digest({"a": {"x", "y", "z"}, "b": 1}) == stable_digest(
        {"b": 1, "a": {"z", "y", "x"}}
    )
    one = _Plan(("a", "b"), SignSource(scenes=3))
    assert stable_digest(one) == stable_digest(_Plan(("a", "b"), SignSource(scenes=3)))
    assert stable_digest(one) != stable_digest(_Plan(("a", "b"), SignSource(scenes=4)))
    array, table = np.arange(6), pa.table({"a": [1, 2]})
    assert stable_digest(array) != stable_digest(array.reshape(2, 3))
    assert stable_digest(table) == stable_digest(pa.concat_tables([table[:1], table[1:]]))
    with pytest.raises(TypeError, match="no stable digest"):
        stable_digest(object())


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(_VALUES, _VALUES)
def test_digests_tell_values_apart(one: object, other: object) -> None:
    assert (stable_digest(one) == stable_digest(other)) == (repr_of(one) == repr_of(other))


def repr_of(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{k!r}:{repr_of(v)}" for k, v in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(repr_of, value)) + "]"
    return repr(value)
