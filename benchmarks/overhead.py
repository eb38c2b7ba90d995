"""What Prefect costs: milliseconds per chunk, and a pipeline run that has nothing to do.

    python -m benchmarks.overhead [--home FOLDER] [--recipe demo] [--counts 1,100,1000]

The project runs chunks inside one Prefect task (kontext.engine.chunks); the peer is one Prefect
task per chunk. Both do the same empty chunks through the same store in one process, in turn, best
of three. With `--home` (one in which `kontext up` is up and the recipe is done) two figures more:
what Prefect adds to the data stages (one task each, with the most chunks measured), as a share of
the seconds they took; and a pipeline run that reuses everything, from start to end.
Prints each goal with its figure; exit 1 where one is not reached.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.goals import goal

COUNTS = (1, 100, 1000)
ROUNDS = 3
DATA = ("ingest", "mine", "caption", "screen", "shard", "index")


def work(chunk: int) -> dict[str, pa.Table]:
    """An empty chunk."""
    return {"rows": pa.table({"chunk": [chunk]})}


def inside_one_task(url: str, count: int, salt: int) -> None:
    """Our way: the chunks of one task."""
    from prefect import flow, task

    from kontext.engine.chunks import map_chunks
    from kontext.store.objects import open_store

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

    from kontext.engine.chunks import map_chunks
    from kontext.store.objects import open_store

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
    from kontext.engine.chunks import map_chunks
    from kontext.store.objects import open_store

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


def data_seconds(home: Path, recipe: str) -> list[float]:
    """Seconds that each stage from ingest to index took, as its manifest has them.

    Raises ArtifactError when one of them has not been made in that home.
    """
    from kontext.engine.run import Engine
    from kontext.stages import STAGES
    from schemas.recipes import load_recipe

    url, catalog = f"file://{home}/store", str(home / "catalog.sqlite")
    engine = Engine(load_recipe(recipe), url, catalog, home, stages=STAGES)
    return [engine.artifact(name).manifest.seconds for name in DATA]


def no_op(home: Path, recipe: str) -> float:
    """Seconds of a pipeline run that reuses everything, process start to end.

    Raises RuntimeError when a stage was not reused: then it measured something else.
    """
    env = {**os.environ, "KONTEXT_HOME": str(home)}
    began = time.perf_counter()
    line = [sys.executable, "-m", "flows.cli", "run", "--json", "--quiet", "--recipe", recipe]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    if not all(stage["reused"] for stage in json.loads(done.stdout)["stages"]):
        raise RuntimeError("a stage was not reused: run the pipeline in that home first")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, help="home in which the recipe is done")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--counts", default=",".join(str(count) for count in COUNTS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/overhead.json"))
    chosen = parser.parse_args()
    rows = measure([int(count) for count in chosen.counts.split(",")])
    result: dict[str, Any] = {"chunks": rows}
    reached = True
    if chosen.home:
        home = chosen.home.resolve()
        seconds = sum(data_seconds(home, chosen.recipe))
        # a stage is one task: what Prefect adds to the one with the most chunks
        cost = max(row["inside_one_task_ms"] * row["chunks"] for row in rows) / 1000
        share = 100 * len(DATA) * cost / seconds
        result |= {"data_seconds": seconds, "data_share_percent": share}
        what = (
            f"Prefect's {cost:.2f} s for each of {len(DATA)} stages, of {seconds:.0f} s data time"
        )
        reached = goal(what, share, 5, " %")
        result["no_op_seconds"] = no_op(home, chosen.recipe)
        what = "a pipeline run with nothing to do"
        reached = goal(what, result["no_op_seconds"], 20, " s") and reached
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
