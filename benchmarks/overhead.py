"""What Prefect costs: milliseconds per chunk, and a pipeline run that has nothing to do.

    python -m benchmarks.overhead [--home FOLDER]

The project runs chunks inside one Prefect task (kontext.store.work); the peer is one Prefect task
per chunk. Both do the same empty chunks through the same store in one process, in turn, best of
three. With `--home` (one in which `kontext up` is up and the recipe is done) a pipeline run that
reuses everything is timed as well, from the command's start to its end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

COUNTS = (1, 100, 1000)
ROUNDS = 3


def work(chunk: int) -> dict[str, pa.Table]:
    """An empty chunk."""
    return {"rows": pa.table({"chunk": [chunk]})}


def inside_one_task(url: str, count: int, salt: int) -> None:
    """Our way: the chunks of one task."""
    from prefect import flow, task

    from kontext.store.objects import open_store
    from kontext.store.work import map_chunks

    @task(persist_result=False)
    def stage() -> None:
        chunks = [salt * 10_000 + index for index in range(count)]
        map_chunks(work, chunks, 1, objects=open_store(url), prefix=f"one/{count}-{salt}")

    @flow(persist_result=False)
    def one_task() -> None:
        stage()

    one_task()


def task_per_chunk(url: str, count: int, salt: int) -> None:
    """The peer: a Prefect task for each chunk."""
    from prefect import flow, task

    from kontext.store.objects import open_store
    from kontext.store.work import map_chunks

    objects = open_store(url)

    @task(persist_result=False)
    def one(index: int) -> None:
        map_chunks(work, [salt * 10_000 + index], 1, objects=objects, prefix=f"per/{count}-{salt}")

    @flow(persist_result=False)
    def per_chunk() -> None:
        for index in range(count):
            one(index)

    per_chunk()


def bare(url: str, count: int, salt: int) -> None:
    """No Prefect at all."""
    from kontext.store.objects import open_store
    from kontext.store.work import map_chunks

    chunks = [salt * 10_000 + index for index in range(count)]
    map_chunks(work, chunks, 1, objects=open_store(url), prefix=f"bare/{count}-{salt}")


def best(way: Callable[[str, int, int], None], url: str, count: int) -> float:
    """Seconds of the fastest of ROUNDS."""
    times = []
    for salt in range(ROUNDS):
        began = time.perf_counter()
        way(url, count, salt)
        times.append(time.perf_counter() - began)
    return min(times)


def measure(counts: Sequence[int]) -> list[dict[str, Any]]:
    """One row per count, in milliseconds per chunk above the bare work."""
    from prefect.testing.utilities import prefect_test_harness

    rows = []
    with prefect_test_harness(server_startup_timeout=180), tempfile.TemporaryDirectory() as folder:
        url = f"file://{folder}"
        for count in counts:
            times = {
                w.__name__: best(w, url, count) for w in (bare, inside_one_task, task_per_chunk)
            }
            row: dict[str, Any] = {"chunks": count}
            row["bare_ms"] = 1000 * times["bare"] / count
            for name in ("inside_one_task", "task_per_chunk"):
                row[f"{name}_ms"] = 1000 * (times[name] - times["bare"]) / count
            row["ratio"] = times["task_per_chunk"] / times["inside_one_task"]
            rows.append(row)
            print(
                f"{count:5} chunks: bare {row['bare_ms']:.2f} ms, Prefect adds "
                f"{row['inside_one_task_ms']:.2f} ms a chunk in one task, "
                f"{row['task_per_chunk_ms']:.2f} ms as a task each (in all {row['ratio']:.1f} x)",
                flush=True,
            )
    return rows


def no_op(home: Path, command: list[str]) -> float:
    """Seconds of a pipeline run that reuses everything, process start to end.

    Raises RuntimeError when a stage was not reused: then it measured something else.
    """
    import os

    env = {**os.environ, "KONTEXT_HOME": str(home)}
    began = time.perf_counter()
    line = [sys.executable, "-m", "flows.cli", "run", "--json", "--quiet", *command]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    if not all(stage["reused"] for stage in json.loads(done.stdout)["stages"]):
        raise RuntimeError("a stage was not reused: run the pipeline in that home first")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="home in which the recipe is done")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead.json"))
    chosen, command = parser.parse_known_args()
    result: dict[str, Any] = {"chunks": measure(COUNTS)}
    if chosen.home:
        result["no_op_seconds"] = no_op(chosen.home, command or ["--recipe", "ci"])
        print(f"a pipeline run with nothing to do: {result['no_op_seconds']:.1f} s (goal: 20 s)")
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
