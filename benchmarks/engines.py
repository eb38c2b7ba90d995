"""Chunk work on Ray beside the process pool: pictures per second of stage ingest's work.

    python -m benchmarks.engines [--images 400] [--megapixels .26] [--workers 2] [--rounds 3]

Both do the same chunks of photographs (noise with the spectrum of photographs, as JPEG) in turn,
with as many workers: processes of this machine, and a local Ray cluster of one node that is up
before. Each starts its workers anew every time; what that takes is measured with two chunks of one
picture, and taken off for the second ratio. The results must be the same bytes.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks.pdq import photographs
from benchmarks.timing import save, take_turns
from kontext.data.ingest import ingest_chunk, plan_work
from kontext.data.ingest_chunk import IngestChunk
from kontext.engine.chunks import map_chunks
from kontext.store.objects import ObjectStore, open_store
from schemas.sections.data import IngestConfig

_CHUNK = 10  # pictures


def chunks_of(folder: Path, home: Path, images: int, megapixels: float) -> list[IngestChunk]:
    """The plan of a folder of so many photographs."""
    for number, rgb in enumerate(photographs(images, megapixels)):
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), rgb)
    config = IngestConfig(
        sources=({"kind": "folder", "path": str(folder)},),
        allow_unlisted=True,
        canaries=1,
        chunk_size=_CHUNK,
    )
    return plan_work(config, home).chunks


def runs(
    root: Path, chunks: Sequence[IngestChunk], workers: int, engines: dict[str, str]
) -> dict[str, Callable[[], None]]:
    """What does the chunks on each engine, every time into a store of its own."""

    def work(name: str, setting: str) -> None:
        os.environ["KONTEXT_ENGINE"] = setting
        count = len(list(root.glob(f"{name}-*")))
        objects = open_store(f"file://{root}/{name}-{count:02d}")
        map_chunks(ingest_chunk, chunks, workers, objects=objects, prefix="w")

    return {name: (lambda n=name, s=setting: work(n, s)) for name, setting in engines.items()}


def stored(objects: ObjectStore) -> dict[str, bytes]:
    """All results."""
    return {key: objects.get(key) for key in objects.list("w/")}


def measure(images: int, megapixels: float, workers: int, rounds: int) -> dict[str, Any]:
    """Seconds of each engine, with and without the start of its workers."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": workers, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    engines = {"pool": "processes", "ray": str(cluster.address)}
    cpu = torch.device("cpu")
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name in ("pictures", "home", "all", "few"):
                (root / name).mkdir()
            chunks = chunks_of(root / "pictures", root / "home", images, megapixels)
            one = [IngestChunk.of(c.items[:1], c.config, root / "home") for c in chunks[:2]]
            few = take_turns(runs(root / "few", one, workers, engines), cpu, rounds, warmup=1)
            whole = take_turns(runs(root / "all", chunks, workers, engines), cpu, rounds, warmup=0)
            made = [stored(open_store(f"file://{path}")) for path in (root / "all").iterdir()]
            assert len(made) == 2 * rounds and all(one == made[0] for one in made), "other bytes"
    finally:
        cluster.shutdown()
        os.environ.pop("KONTEXT_ENGINE", None)
    start = {name: statistics.median(times) for name, times in few.items()}
    total = {name: statistics.median(times) for name, times in whole.items()}
    rate = {name: images / (total[name] - start[name]) for name in total}
    return {
        "images": images,
        "megapixels": megapixels,
        "workers": workers,
        "start_s": start,
        "total_s": total,
        "images_per_s": rate,
        "ratio": rate["ray"] / rate["pool"],
        "ratio_with_start": total["pool"] / total["ray"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--megapixels", type=float, default=0.26)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write results/engines-cpu.json")
    chosen = parser.parse_args(arguments)
    found = measure(chosen.images, chosen.megapixels, chosen.workers, chosen.rounds)
    for name in ("pool", "ray"):
        print(
            f"{name}: {found['images_per_s'][name]:.1f} images/s with {chosen.workers} workers, "
            f"which start in {found['start_s'][name]:.1f} s; {found['total_s'][name]:.1f} s in all"
        )
    print(
        f"Ray does {found['ratio']:.2f} x the images per second of the process pool "
        f"({found['ratio_with_start']:.2f} x with the start), the same bytes"
    )
    if chosen.save:
        save("engines", torch.device("cpu"), found)


if __name__ == "__main__":
    main()
