"""The catalog at ten million pairs: docs/sql.md's questions, commits, time travel, readers.

    python -m benchmarks.catalog [--pairs 10000000] [--home FOLDER] [--repeats 5]

Generates a dataset of that many pairs (a fifth as many images, half of one safety decision per
pair), commits it, and measures on this machine's cores:
  - every question REPEATS times through `Catalog.query`, attaching included; p50 and p95;
  - a commit of a dataset version with 100,000 pairs into that catalog;
  - 50 further versions, and whether `--at` answers for each of them;
  - two reader processes during commits, which must never see half a version.
Prints each goal with its figure; exit 1 where one is not reached. Results go to
benchmarks/results/catalog.json. `--home` keeps the catalog for the next call.
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from benchmarks.goals import goal
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.rows import TableSource
from kontext.store.catalog.versions import DatasetVersion
from schemas.catalog import DATASET_TABLES
from schemas.manifest import Manifest, ManifestFile

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs" / "sql.md"
LIMITS = {"nsfw_max": 0.98, "nudity_max": 0.6, "l1_min": 0.02, "clip_dir_min": 0.05}

_IMAGES = """
    SELECT sha256('x' || i) AS pixel_id, sha256('o' || i) AS image_id,
        unhex(sha256('h' || i)) AS pdq, 100::UTINYINT AS pdq_quality,
        512::UINTEGER AS width_px, 512::UINTEGER AS height_px,
        512::UINTEGER AS orig_width_px, 512::UINTEGER AS orig_height_px, 90000::UBIGINT AS bytes,
        'png' AS format, 'source' || i % 12 AS source, 'ref/' || i AS source_ref,
        'concept' || i % 1000003 AS group_key, 'a concept' AS concept, '{{}}' AS attributes,
        ['MIT', 'CC0-1.0', 'CC-BY-4.0'][1 + i % 3] AS license_spdx, 'author ' || i % 12 AS author,
        true AS synthetic
    FROM range({images}) t (i)"""
_PAIRS = """
    SELECT sha256('p' || i) AS pair_id, [sha256('x' || (7 * i + 1) % {images})] AS context_ids,
        sha256('x' || i % {images}) AS target_id,
        ['local', 'global', 'character', 'style', 'text', 't2i'][1 + i % 6] AS relation_class,
        'relation' || i % 24 AS relation, 'attribute' AS miner, '1' AS miner_version,
        '{{"attribute": "colour", "from": "red", "to": "shade ' || i % 97 || '"}}' AS params,
        'concept' || (i % {images}) % 1000003 AS group_key,
        'source' || (i % {images}) % 12 AS source, 'CC-BY-4.0' AS license_spdx
    FROM range({pairs}) t (i)"""
_CAPTIONS = """
    SELECT sha256('p' || i) AS pair_id, 'make it shade ' || i % 97 AS instruction,
        'shade ' || i % 97 AS instruction_short, 'make it red again' AS instruction_inverse,
        'a thing of shade ' || i % 97 AS target_caption, 'a red thing' AS context_caption,
        'colour/' || i % 5 AS template, if(i % 211 = 0, 'refused', 'ok') AS status,
        'templates 1' AS captioner
    FROM range({pairs}) t (i)"""
_SCORES = """
    SELECT sha256('p' || i) AS pair_id, u(i, 1) AS nsfw_max, u(i, 2) * 0.5::FLOAT AS nudity_max,
        0::FLOAT AS exposure_delta, false AS unmatchable, '' AS text_reason, '' AS ncii_reason,
        0.2 + 0.2 * u(i, 3) AS clip_t, 0.9::FLOAT AS clip_i, u(i, 4) AS clip_dir,
        u(i, 5) AS ssim, u(i, 6) AS l1, u(i, 7) AS changed_frac,
        1::FLOAT AS change_kept, 60::USMALLINT AS pdq_distance
    FROM range({pairs}) t (i)"""
_SPLITS = """
    SELECT sha256('p' || i) AS pair_id,
        substr(sha256('c' || (i % {images}) % 1000003), 1, 16) AS component_id,
        if(((i % {images}) % 1000003) % 50 = 0, 'test', 'train') AS split
    FROM range({pairs}) t (i)"""
_DECISIONS = """
    SELECT 'image' AS subject_kind, sha256('s' || i) AS subject_hmac,
        ['hash_gate', 'classifier'][1 + i % 2] AS "check", 'list ' || i % 3 AS provider,
        u(i, 8) AS score, 0.5::FLOAT AS threshold, if(i % 5003 = 0, 'drop', 'pass') AS outcome,
        if(i % 5003 = 0, 'nsfw', '') AS reason, '1' AS policy_version,
        TIMESTAMPTZ '2026-01-01 00:00:00+00' AS decided_at, '' AS run, 'screen/s' AS artifact,
        '' AS prev_hash, '' AS row_hash
    FROM range({images}) t (i)"""
_SHARDS = """
    SELECT 'shard' || i AS shard_id, 'train' AS split, 'train-' || i || '.tar' AS name,
        sha256('t' || i) AS sha256, 100000000::UBIGINT AS bytes, 5000::UINTEGER AS samples,
        '' AS first_key, '' AS last_key
    FROM range(1 + {pairs} // 5000) t (i)"""
_MEMBERS = """
    SELECT 'shard' || i // 5000 AS shard_id, sha256('p' || i) AS pair_id,
        (i % 5000 * 20480)::UBIGINT AS offset_bytes, 20480::UBIGINT AS length_bytes,
        [{{'name': name, 'offset_bytes': (i % 5000 * 20480 + start)::UBIGINT,
            'length_bytes': 9000::UBIGINT}}
            for name, start in ['ctx0.png', 'tgt.png']] AS files
    FROM range({pairs}) t (i)"""
_SQL = {
    "images": _IMAGES,
    "pairs": _PAIRS,
    "captions": _CAPTIONS,
    "pair_scores": _SCORES,
    "splits": _SPLITS,
    "safety_decisions": _DECISIONS,
    "shards": _SHARDS,
    "shard_members": _MEMBERS,
    "image_scores": """
        SELECT sha256('x' || i) AS pixel_id, 'open-nsfw' AS classifier, 'nsfw' AS label,
            u(i, 9) AS score FROM range({images}) t (i)""",
    "rejects": """
        SELECT 'source' || i % 12 AS source, sha256('r' || i) AS subject_hmac, '' AS source_ref,
            'too_small' AS reason, '' AS detail FROM range({images} // 20) t (i)""",
}


def generate(pairs: int, folder: Path) -> dict[str, TableSource]:
    """Parquet files of a dataset with that many pairs, and its policy."""
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, TableSource] = {}
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE MACRO u(i, k) AS ((hash(i * 31 + k) % 1000003) / 1000003)::FLOAT"
        )
        for name, sql in _SQL.items():
            path = folder / f"{name}.parquet"
            text = sql.format(pairs=pairs, images=max(pairs // 5, 1))
            connection.execute(f"COPY ({text}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
            tables[name] = [path]
    names, values = list(LIMITS), list(LIMITS.values())
    tables["judgements"] = []  # nobody was asked
    tables["policy"] = pa.table({"name": names, "value": pa.array(values, pa.float64())})
    assert set(tables) == set(DATASET_TABLES)
    return tables


def record_runs(catalog: Catalog, inputs: Mapping[str, str]) -> None:
    """A row in `runs` for every input and for an index made from them."""
    for stage, digest in (*inputs.items(), ("index", "x1")):
        catalog.record(
            Manifest(
                stage=stage,
                digest=digest,
                code_digest="c",
                config={},
                inputs=dict(inputs) if stage == "index" else {},
                files=[ManifestFile(name="file", sha256="ab", size=10)],
                metrics={},
                notes=[],
                recipe="bench",
                created_at="2026-01-01T00:00:00+00:00",
                seconds=1.0,
                git_commit="",
                packages={},
                kernels={},
            )
        )


def questions(pair_id: str, old: int, new: int) -> dict[str, str]:
    """The worked questions of docs/sql.md, with their placeholders filled."""
    found = re.findall(r"### (\d+\. [^\n]+)\n.*?```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    fill = {"PAIR_ID": pair_id, "VERSION => 11": f"VERSION => {old}"}
    fill["VERSION => 22"] = f"VERSION => {new}"
    texts = {}
    for title, sql in found:
        for placeholder, value in fill.items():
            sql = sql.replace(placeholder, value)
        texts[title] = sql
    return texts


def ask(catalog: Catalog, texts: Mapping[str, str], repeats: int) -> dict[str, list[float]]:
    """Seconds of every question, `repeats` times, in turn."""
    times: dict[str, list[float]] = {title: [] for title in texts}
    for _ in range(repeats):
        for title, sql in texts.items():
            began = time.perf_counter()
            catalog.query(sql)
            times[title].append(time.perf_counter() - began)
    return times


def watch(path: str, store: str, stop: Any, found: Any) -> None:
    """A reader: pairs counted in three ways, which agree unless half a version shows."""
    catalog = Catalog(path, store)
    torn = reads = 0
    sql = """SELECT (SELECT count(*) FROM pairs WHERE dataset = 'small'),
        (SELECT count(*) FROM pair_facts WHERE dataset = 'small'),
        (SELECT pairs FROM datasets WHERE name = 'small' ORDER BY version DESC LIMIT 1)"""
    while not stop.wait(0.02):
        counts = set(catalog.query(sql).to_pylist()[0].values())
        reads, torn = reads + 1, torn + (len(counts) != 1)
    found.put((reads, torn))


def commit_beside_readers(
    catalog: Catalog, store: str, versions: list[dict[str, TableSource]]
) -> tuple[list[DatasetVersion], list[float], int, int]:
    """Commit versions of `small` while two processes read; also reads made and torn ones seen."""
    context = multiprocessing.get_context("spawn")
    stop, found = context.Event(), context.Queue()
    arguments = (str(catalog.path), store, stop, found)
    readers = [context.Process(target=watch, args=arguments, daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    done, seconds = [], []
    try:
        for number, tables in enumerate(versions):
            began = time.perf_counter()
            done.append(catalog.commit_dataset("small", f"small {number}", tables, {}))
            seconds.append(time.perf_counter() - began)
    finally:
        stop.set()
    reads = [found.get(timeout=120) for _ in readers]
    for reader in readers:
        reader.join()
    return done, seconds, sum(r for r, _ in reads), sum(t for _, t in reads)


def measure(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    store = f"file://{home}/store"
    catalog = Catalog(home / "catalog.sqlite", store)
    report: dict[str, Any] = {"pairs": args.pairs, "cores": os.cpu_count()}
    known = {version.name for version in catalog.datasets()}
    small = generate(100_000, home / "small")
    if "big" not in known:
        catalog.commit_dataset("small", "first", small, {})
        began = time.perf_counter()
        big = generate(args.pairs, home / "big")
        report["generate_seconds"] = round(time.perf_counter() - began, 1)
        began = time.perf_counter()
        catalog.commit_dataset("big", "big", big, {"mine": "m1"})
        report["big_commit_seconds"] = round(time.perf_counter() - began, 1)
        record_runs(catalog, {"ingest": "i1", "mine": "m1"})
    old, new = (version.snapshot_id for version in catalog.datasets()[:2])
    pair = duckdb.sql(f"SELECT sha256('p{args.pairs // 2}')").fetchall()[0][0]
    times = ask(catalog, questions(pair, old, new), args.repeats)
    everything = [second for seconds in times.values() for second in seconds]
    report["questions_p50"] = {t: round(statistics.median(s), 3) for t, s in times.items()}
    report["questions_p95"] = {t: round(_p95(s), 3) for t, s in times.items()}
    report["questions_p95_seconds"] = round(_p95(everything), 3)
    began = time.perf_counter()
    catalog.commit_dataset("small", f"again {time.time()}", small, {})
    report["commit_100k_seconds"] = round(time.perf_counter() - began, 2)
    tiny = [generate(100 + number, home / "tiny" / str(number)) for number in range(50)]
    done, seconds, reads, torn = commit_beside_readers(catalog, store, tiny)
    report |= {"versions": len(done), "version_commit_p50": round(statistics.median(seconds), 2)}
    report |= {"reads_during_commits": reads, "torn_reads": torn}
    count = "SELECT count(*) AS n FROM pair_facts WHERE dataset = 'small'"
    answers = [catalog.query(count, at=v.snapshot_id)["n"][0].as_py() for v in done]
    report["at_wrong"] = sum(found != 100 + number for number, found in enumerate(answers))
    return report


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kontext-catalog-") as temporary:
        report = measure(args, (args.home or Path(temporary)).resolve())
    text = json.dumps(report, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "catalog.json").write_text(text + "\n")
    print(text)
    return 0 if verdict(report) else 1


def verdict(report: dict[str, Any]) -> bool:
    """One line per goal; whether all are reached."""
    readers = f"half versions seen by two readers ({report['reads_during_commits']} reads)"
    wrong = "wrong answers of --at over the newest versions"
    found = [
        goal("ten questions, p95", report["questions_p95_seconds"], 1.5, " s"),
        goal("commit of 100,000 rows", report["commit_100k_seconds"], 5, " s"),
        goal(f"{wrong} ({report['versions']})", report["at_wrong"], 0),
        goal(readers, report["torn_reads"], 0),
    ]
    return all(found)


if __name__ == "__main__":
    sys.exit(main())
