"""`kontext safety sweep` over a store of a million pictures against a list of a hundred thousand.

    python -m benchmarks.sweep [--pictures 1000000] [--entries 100000] [--shards 100] [--hit 10]

The store is made first and not timed: one dataset with random hashes, a pair for every tenth
picture, tars of small samples, and a checkpoint. Of the list's entries as many lie 20 bits from a
stored hash as hit `--hit` shards. Then the whole sweep is timed, once: matching, new artifacts, cut
shards, the new version in the catalog and as Parquet, the ledger, and what consumed it.
"""

import argparse
import datetime as dt
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from kontext.data.shards.write import ShardSample, ShardSet, write_shards
from kontext.data.sweep.sweep import Place, sweep
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.safety.hashes import HashGate, HashList
from kontext.safety.ledger import Ledger
from kontext.safety.proof import canary_list
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import ArtifactStore
from schemas.manifest import Manifest
from schemas.recipe import Recipe
from schemas.tables import (
    CAPTIONS,
    DECISIONS,
    GIVEN,
    IMAGE_SCORES,
    IMAGES,
    OUTCOMES,
    PAIR_SCORES,
    PAIRS,
    PICTURE_SPLITS,
    PIXELS,
    REJECTS,
    SPLITS,
)

_DATA = ("ingest", "mine", "caption", "screen", "shard")
_PNG = bytes(2000)


def _columns(schema: pa.Schema, rows: int, **given: object) -> pa.Table:
    """A table of so many rows; what is not given is zero or empty."""
    columns = []
    for field in schema:
        if field.name in given:
            columns.append(pa.array(given[field.name], field.type))
        elif pa.types.is_string(field.type):
            columns.append(pa.array([""] * rows, field.type))
        elif pa.types.is_list(field.type):
            columns.append(pa.array([[]] * rows, field.type))
        else:
            columns.append(pa.array(np.zeros(rows, np.int64)).cast(field.type))
    return pa.table(columns, schema=schema)


def _ids(count: int, what: str) -> list[str]:
    return [hashlib.sha256(f"{what}{number}".encode()).hexdigest() for number in range(count)]


def _commit(
    store: ArtifactStore,
    ledger: Ledger,
    stage: str,
    inputs: dict[str, str],
    files: dict[str, object],
) -> None:
    """An artifact of tables, JSON and files."""
    writer = store.writer(stage, _digest(stage))
    for name, content in files.items():
        if isinstance(content, pa.Table):
            writer.add_table(name, content)
        elif isinstance(content, Path):
            writer.add_file(name, content)
        else:
            writer.add_json(name, content)
    if stage in ("ingest", "screen"):
        ledger.append(stage, _digest(stage), DECISIONS.empty_table())
    config = {"dataset": "bench"} if stage == "shard" else {}
    writer.commit(
        Manifest(
            stage=stage, digest=_digest(stage), code_digest="", config=config, inputs=inputs,
            files=list(writer.files.values()), metrics={}, notes=[], recipe="bench",
            created_at=f"2026-01-01T00:00:0{len(inputs)}+00:00", seconds=0, git_commit="",
            packages={}, kernels={},
        )
    )  # fmt: skip


def _digest(stage: str) -> str:
    return hashlib.sha256(stage.encode()).hexdigest()[:16]


def make(folder: Path, pictures: int, shards: int) -> tuple[Place, np.ndarray, list[int]]:
    """The store, its hashes, and the first picture of every shard's first pair."""
    home = folder / "home"
    engine = _engine(folder)
    store, ledger = engine.artifacts, Ledger(engine.objects, home)
    pixels = _ids(pictures, "pixel")
    hashes = np.random.default_rng(0).integers(0, 256, (pictures, 32), np.uint8)
    of = list(range(0, pictures - 1, 10))
    pairs = sorted(zip(_ids(len(of), "pair"), of, strict=True))
    each = -(-len(pairs) // shards)
    every = {
        "ingest": _ingest(pixels, hashes),
        **_chosen(pairs, pixels),
        "shard": _shards(folder / "tars", pairs, pixels, each),
    }
    for number, stage in enumerate(_DATA):
        inputs = {name: _digest(name) for name in _DATA[:number] if name in STAGES[stage].inputs}
        _commit(store, ledger, stage, inputs, every[stage])
    indexed = _engine(folder, {stage: _digest(stage) for stage in _DATA})
    indexed.run_stage("index", Reporter(logging.getLogger("benchmark")))
    _commit(store, ledger, "encode", {"shard": _digest("shard")}, {})
    _commit(store, ledger, "finetune", {"encode": _digest("encode")}, {})
    first = [number for _, number in pairs]
    return Place(store, indexed.catalog, home, STAGES), hashes, first[::each]


def _engine(folder: Path, pins: dict[str, str] | None = None) -> Engine:
    home, url = folder / "home", f"file://{folder}/store"
    return Engine(
        Recipe(name="bench"), url, home / "catalog.sqlite", home, stages=STAGES, pins=pins
    )


def _ingest(pixels: list[str], hashes: np.ndarray) -> dict[str, object]:
    """Files of stage ingest, with one picture's pixels."""
    count, refs = len(pixels), [f"{n}.png" for n in range(len(pixels))]
    table = _columns(
        IMAGES, count, pixel_id=pixels, image_id=_ids(count, "image"), source=["bench"] * count,
        source_ref=refs, pdq=[row.tobytes() for row in hashes],
    )  # fmt: skip
    outcomes = _columns(
        OUTCOMES, count, source=["bench"] * count, source_ref=refs, pixel_id=pixels,
        outcome=["kept"] * count,
    )  # fmt: skip
    return {
        **{f"images/{n:03d}.parquet": part for n, part in enumerate(_parts(table))},
        "rejects.parquet": _columns(REJECTS, 0),
        "given.parquet": _columns(GIVEN, 0),
        "outcomes.parquet": outcomes,
        "decisions.parquet": DECISIONS.empty_table(),
        "pixels/000.parquet": _columns(PIXELS, 1, pixel_id=pixels[:1], png=[_PNG]),
    }


def _chosen(pairs: list[tuple[str, int]], pixels: list[str]) -> dict[str, dict[str, object]]:
    """Files of mine, caption and screen: every pair is kept."""
    count, ids = len(pairs), [pair for pair, _ in pairs]
    mine = _columns(
        PAIRS, count, pair_id=ids, context_ids=[[pixels[n]] for _, n in pairs],
        target_id=[pixels[n + 1] for _, n in pairs], relation_class=["local"] * count,
    )  # fmt: skip
    screen: dict[str, object] = {
        "image_scores.parquet": _columns(IMAGE_SCORES, len(pixels), pixel_id=pixels),
        "pair_scores.parquet": _columns(PAIR_SCORES, count, pair_id=ids),
        "accepted.parquet": pa.table({"pair_id": ids, "accept": [True] * count}),
        "policy.json": {"version": "1", "thresholds": {"l1_min": 0.0}},
        "decisions.parquet": DECISIONS.empty_table(),
    }
    captions = _columns(CAPTIONS, count, pair_id=ids, status=["ok"] * count)
    return {
        "mine": {"pairs.parquet": mine},
        "caption": {"captions.parquet": captions},
        "screen": screen,
    }


def _shards(
    folder: Path, pairs: list[tuple[str, int]], pixels: list[str], each: int
) -> dict[str, object]:
    """Files of stage shard: tars of `each` pairs."""
    folder.mkdir()
    done = ShardSet()
    samples = [
        ShardSample(pair, (pixels[n],), pixels[n + 1], {"pair_id": pair}) for pair, n in pairs
    ]
    write_shards(samples, "train", folder, each, lambda _: _PNG, done)
    shards, members = done.tables()
    split, ids = ["train"] * len(pairs), [pair for pair, _ in pairs]
    pictures = {"pixel_id": pixels, "split": ["train"] * len(pixels)}
    return {
        "shards.parquet": shards,
        "shard_members.parquet": members,
        "splits.parquet": _columns(SPLITS, len(pairs), pair_id=ids, split=split),
        "picture_splits.parquet": _columns(PICTURE_SPLITS, len(pixels), **pictures),
        **{path.name: path for path in done.paths},
    }


def _parts(table: pa.Table, rows: int = 4096) -> list[pa.Table]:
    return [table.slice(start, rows) for start in range(0, len(table), rows)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the store, sweep it, and print the seconds and what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--hit", type=int, default=10)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place, hashes, firsts = make(Path(folder), args.pictures, args.shards)
        entries = np.random.default_rng(1).integers(0, 256, (args.entries, 32), np.uint8)
        entries[: args.hit] = hashes[firsts[: args.hit]]
        entries[: args.hit, :20] ^= 1  # 20 bits away
        listed = HashList("benchmark", "1", dt.date.today(), pdq=entries)
        began, used = time.perf_counter(), time.process_time()
        found = sweep(place, HashGate([canary_list(), listed]))
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
    (version,) = found.versions
    result = {
        "pictures": found.kept, "entries": args.entries, "taken": sum(found.taken.values()),
        "pairs": version["pairs"], "shards_cut": version["shards_cut"],
        "shards_same": version["shards_same"], "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "consumers": sorted(one.stage for one in found.consumers),
    }  # fmt: skip
    print(json.dumps(result))
    assert found.taken == {"hash_match": args.hit} and version["shards_cut"] == args.hit
    assert {"finetune", "encode", "shard", "index"} <= set(result["consumers"])


if __name__ == "__main__":
    main()
