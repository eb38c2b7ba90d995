"""What mining and splitting a large dataset takes: synthetic metadata, no pictures to look at.

    python -m benchmarks.mine [--images 2000000] [--pairs 10000000] [--group 5000] [--folder FOLDER]

Makes an ingest artifact of so many images in small groups, whose labels are mined to about 1.2
times as many proposals as pairs, and one image in 500 a near-duplicate of one in another group.
Then, each in a process of its own: stage mine on it (miners, caps, quotas, tables); and what stage
shard does before it writes (join with captions and verdicts, near-duplicates, components, splits).
Last, stage mine on `--group` pictures of one group, each with three labels, in a store of its own.
Prints the seconds and the largest memory (maximum resident set) of each, and the goals; exit 1
where one is not reached. Results go to benchmarks/results/mine-cpu.json.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from benchmarks.goals import goal
from benchmarks.timing import save
from kontext.data.images import ImageBank
from kontext.data.pixels import encode_png
from kontext.data.shards import select
from kontext.data.shards.divide import divide
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore, ArtifactWriter
from kontext.store.objects import open_store
from kontext.store.parquet import write_parquet
from schemas.manifest import Manifest
from schemas.recipe import Recipe
from schemas.sections.data import IngestConfig, MineConfig
from schemas.tables import CAPTION_TEXTS, CAPTIONS, GIVEN, IMAGES, MOMENTS, PIXELS

MEMORY_GB = 6.0
GROUP_SECONDS, GROUP_GB = 60.0, 1.0
_FILE = 100_000  # images of a file
_LABELS = ("hair_color", "season", "expression", "text")  # one of each category but style
_NEAR = 500  # one image in so many
VERDICTS = pa.schema(
    [("pair_id", pa.string()), ("accept", pa.bool_()), ("reject_reasons", pa.list_(pa.string()))]
)


def hexes(draw: np.random.Generator, count: int) -> list[str]:
    """Ids like SHA-256 in hexadecimal."""
    return [draw.bytes(32).hex() for _ in range(count)]


def images_of(first: int, count: int, group: int) -> pa.Table:
    """IMAGES rows from image `first` on; groups of `group` images differ in one label."""
    draw = np.random.default_rng(first)
    numbers = np.arange(first, first + count)
    groups = numbers // group
    hashes = draw.integers(0, 256, (count, 32), np.uint8)
    near = np.flatnonzero(numbers % _NEAR == _NEAR // 2)
    hashes[near] = hashes[near - _NEAR // 2]  # of another group
    hashes[near, 0] ^= 1
    blank: dict[str, Any] = {
        field.name: pa.nulls(count, field.type).fill_null(_blank(field.type)) for field in IMAGES
        if not pa.types.is_fixed_size_binary(field.type)
    }  # fmt: skip
    return pa.table(
        blank
        | {
            "pixel_id": hexes(draw, count),
            "pdq": pa.array([one.tobytes() for one in hashes], pa.binary(32)),
            "pdq_quality": np.full(count, 100, np.uint8),
            "source": [f"synthetic:{at % 8}" for at in groups],
            "group_key": [f"synthetic:{at:09}" for at in groups],
            "concept": [f"thing {at}" for at in groups],
            "attributes": [
                json.dumps({_LABELS[at % len(_LABELS)]: f"value {number % group}"})
                for at, number in zip(groups.tolist(), numbers.tolist(), strict=True)
            ],
            "license_spdx": ["CC0-1.0"] * count,
        },
        IMAGES,
    )


def _blank(kind: pa.DataType) -> Any:
    return "" if pa.types.is_string(kind) else False if pa.types.is_boolean(kind) else 0


def group_of(count: int) -> pa.Table:
    """IMAGES rows of one group: no two have the same colour, object and style."""
    table = images_of(0, count, count)
    labels = [
        {"color": str(n % 50), "object": str(n // 50 % 25), "art_style": str(n // 1250)}
        for n in range(count)
    ]
    place = table.schema.get_field_index("attributes")
    return table.set_column(
        place, IMAGES.field(place), pa.array([json.dumps(own) for own in labels])
    )


def disc(number: int) -> bytes:
    """PNG of a disc, 64 px; pictures of one object have its size."""
    across = np.hypot(*(np.indices((64, 64)) - 32.0))
    color = np.random.default_rng(number).integers(0, 200, 3)
    inside = (across < 8 + number // 50 % 25)[..., None]
    return encode_png(np.where(inside, color, 255).astype(np.uint8))


def committed(store: ArtifactStore, stage: str, digest: str, config: Any, fill: Any) -> Artifact:
    """An artifact that `fill` wrote."""
    writer = store.writer(stage, digest)
    fill(writer)
    manifest = Manifest(
        stage=stage,
        digest=digest,
        code_digest="",
        config=config,
        inputs={},
        files=list(writer.files.values()),
        metrics={},
        notes=[],
        recipe="mine-benchmark",
        created_at="2026-01-01T00:00:00Z",
        seconds=0,
        git_commit="",
        packages={},
        kernels={},
    )
    writer.commit(manifest)
    return store.open(stage, digest)


def recipe(pairs: int) -> Recipe:
    """Keeps about so many pairs: a share of each of four categories, and of singles."""
    return Recipe(
        name="mine-benchmark",
        mine=MineConfig(pairs_per_category=pairs * 21 // 100, t2i_singles=pairs * 16 // 100),
    )


def ingested(engine: Engine, tables: Iterator[tuple[pa.Table, Sequence[bytes]]]) -> None:
    """The ingest artifact of tables of IMAGES and their PNGs, a file each."""

    def fill(writer: ArtifactWriter) -> None:
        for number, (table, pngs) in enumerate(tables):
            writer.add_table(f"images/{number:05}.parquet", table)
            pixels = {"pixel_id": table["pixel_id"], "png": pngs}
            writer.add_table(f"pixels/{number:05}.parquet", pa.table(pixels, PIXELS))
        writer.add_table("moments.parquet", MOMENTS.empty_table())
        writer.add_table("given.parquet", GIVEN.empty_table())

    committed(engine.artifacts, "ingest", "made", IngestConfig().model_dump(mode="json"), fill)


def make(args: argparse.Namespace, engine: Engine) -> None:
    """The ingest artifact; every picture is the same few pixels."""
    group = args.pairs // args.images + 1
    png = encode_png(np.full((16, 16, 3), 128, np.uint8))
    counts = ((first, min(_FILE, args.images - first)) for first in range(0, args.images, _FILE))
    ingested(engine, ((images_of(first, n, group), [png] * n) for first, n in counts))


def make_group(args: argparse.Namespace, engine: Engine) -> None:
    """The ingest artifact of one group."""
    pngs = [disc(number) for number in range(args.group)]
    ingested(engine, iter([(group_of(args.group), pngs)]))


def mine(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """Stage mine, through the engine."""
    outcome = engine.run_stage("mine", Reporter(logging.getLogger("mine")))
    counts = engine.artifacts.open("mine", outcome.digest).json("counts.json")
    kept = sum(row["pairs"] for row in counts["outcomes"] if row["outcome"] == "kept")
    return {"proposed": counts["proposed"], "kept": kept}


def words(mined: Artifact, engine: Engine) -> dict[str, Artifact]:
    """Captions and verdicts of the pairs, as stages caption and screen leave them."""
    path = mined.path("pairs.parquet")

    def parts() -> Iterator[pa.Table]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_FILE, columns=["pair_id"]):
                yield pa.Table.from_batches([batch])

    def captions() -> Iterator[pa.Table]:
        for part in parts():
            texts = {name: ["a few words about what should change"] * len(part)
                     for name in CAPTION_TEXTS}  # fmt: skip
            told = dict.fromkeys(("template", "captioner"), ["templates/2"] * len(part))
            columns = {"pair_id": part["pair_id"], "status": ["ok"] * len(part), **texts, **told}
            yield pa.table(columns, CAPTIONS)

    def verdicts() -> Iterator[pa.Table]:
        for part in parts():
            reasons: list[list[str]] = [[]] * len(part)
            columns = {"accept": [True] * len(part), "reject_reasons": reasons}
            yield pa.table({"pair_id": part["pair_id"], **columns}, VERDICTS)

    def fill(name: str, schema: pa.Schema, rows: Iterator[pa.Table]) -> Any:
        def into(writer: ArtifactWriter) -> None:
            with tempfile.TemporaryDirectory() as folder:
                write_parquet(Path(folder) / name, schema, rows)
                writer.add_file(name, Path(folder) / name)

        return into

    files = {
        "caption": ("captions.parquet", CAPTIONS, captions()),
        "screen": ("accepted.parquet", VERDICTS, verdicts()),
    }
    return {
        stage: committed(engine.artifacts, stage, f"of-{mined.digest}", {}, fill(*file))
        for stage, file in files.items()
    }


def caption(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """The words, which no stage has written here."""
    words(engine.artifact("mine"), engine)
    return {}


def split(args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """What stage shard does before it writes."""
    mined = engine.artifact("mine")
    inputs = {"ingest": engine.artifacts.open("ingest", "made"), "mine": mined}
    for stage in ("caption", "screen"):
        inputs[stage] = engine.artifacts.open(stage, f"of-{mined.digest}")
    bank = ImageBank(inputs["ingest"])
    divided = divide(inputs, engine.recipe.shard, bank.rgb, {})
    table = select.splits_table(divided.selected, divided.components, divided.splits)
    counted = {row["values"]: row["counts"] for row in pc.value_counts(table["split"]).to_pylist()}
    return {
        "pairs": len(divided.selected),
        "components": divided.components.count,
        "near_duplicates": divided.components.near_duplicates,
        "splits": counted,
    }


STEPS: dict[str, Callable[[argparse.Namespace, Engine], dict[str, Any] | None]] = {
    "make": make, "mine": mine, "caption": caption, "split": split,
    "make-group": make_group, "group": mine,
}  # fmt: skip
MAKING, JUDGED = ("make", "make-group"), ("mine", "split")


def one_step(args: argparse.Namespace) -> dict[str, Any]:
    """A step in this process: seconds, memory at most, and what it found."""
    folder = args.folder / ("group" if args.step.endswith("group") else "many")
    home, url = folder / "home", f"file://{folder}/store"
    if args.step in MAKING:
        store = ArtifactStore(open_store(url), home / "cache" / "blobs")
        committed(store, "ingest", "none", {}, lambda writer: None)
    pin = "none" if args.step in MAKING else "made"
    engine = Engine(recipe(args.pairs), url, "", home, stages=STAGES, pins={"ingest": pin})
    began, worked = time.perf_counter(), time.process_time()
    found = STEPS[args.step](args, engine) or {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "cpu": time.process_time() - worked, "peak_gb": peak, **found}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2_000_000)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--group", type=int, default=5000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(one_step(args)))
        return
    with tempfile.TemporaryDirectory(prefix="kontext-mine-") as temporary:
        args.folder = args.folder or Path(temporary)
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """All steps, printed, judged and saved."""
    found = {}
    for step in STEPS:
        sizes = [f"--{name}={getattr(args, name)}" for name in ("images", "pairs", "group")]
        command = [sys.executable, "-m", "benchmarks.mine", "--step", step, *sizes]
        command += ["--folder", str(args.folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found[step] = json.loads(done.stdout.splitlines()[-1])
        print(f"{step:8} {found[step]}", flush=True)
    told = {"images": args.images, "pairs": args.pairs, "group": args.group, "steps": found}
    save("mine", torch.device("cpu"), told)
    what = f"{args.images:,} images, {args.pairs:,} pairs"
    reached = [
        goal(f"{step} of {what}, memory at most", found[step]["peak_gb"], MEMORY_GB, " GiB")
        for step in JUDGED
    ]
    group, what = found["group"], f"{args.group:,} pictures of one group, mined"
    reached.append(goal(what, group["seconds"], GROUP_SECONDS, " s"))
    reached.append(goal(f"{what}, memory at most", group["peak_gb"], GROUP_GB, " GiB"))
    sys.exit(not all(reached))


if __name__ == "__main__":
    main()
