"""index: commit everything the data stages wrote as one catalog snapshot, a dataset version.

Figures:
    rows/*: {} rows of *
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kontext.engine.stage import Stage, StageContext
from kontext.errors import GateError
from kontext.safety.ledger import Ledger
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.export import export_version
from kontext.store.catalog.rows import TableSource
from kontext.store.catalog.versions import DatasetVersion
from kontext.store.catalog.views import policy_table
from kontext.store.objects import open_store, sha256_file
from kontext.store.parquet import parquet_bytes, read_parquet
from schemas.sections.data import IndexConfig, ShardConfig
from schemas.tables import CAPTION_TEXTS

STAGE = Stage(
    name="index",
    section="index",
    inputs=("ingest", "mine", "caption", "screen", "shard"),
    tag="dataset@{shard.dataset}",
    renew="renew",
    summary="commit one catalog snapshot: a dataset version",
)

# table -> (stage, file, or folder of Parquet files)
_SOURCES = {
    "images": ("ingest", "images/"),
    "rejects": ("ingest", "rejects.parquet"),
    "pairs": ("mine", "pairs.parquet"),
    "captions": ("caption", "captions.parquet"),
    "judgements": ("caption", "judgements.parquet"),
    "image_scores": ("screen", "image_scores.parquet"),
    "pair_scores": ("screen", "pair_scores.parquet"),
    "splits": ("shard", "splits.parquet"),
    "shards": ("shard", "shards.parquet"),
    "shard_members": ("shard", "shard_members.parquet"),
}
_NOT_ALWAYS = ("judgements.parquet",)  # where the recipe asks for a judge


@dataclass(frozen=True)
class _Wanted:
    """The dataset that the inputs make."""

    name: str
    digest: str
    tables: dict[str, TableSource]
    digests: dict[str, str]  # of the tables
    inputs: dict[str, str]  # stage -> digest


def run(ctx: StageContext[IndexConfig]) -> None:
    """Register the tables and write index.json. A rerun finds its own commit and adds nothing."""
    wanted = _wanted(ctx)
    version, exported = _commit(ctx, wanted)
    counts = {name: _rows(source) for name, source in sorted(wanted.tables.items())}
    ctx.output.add_json(
        "index.json",
        {
            "dataset": wanted.name,
            "version": version.version,
            "snapshot_id": version.snapshot_id,
            "dataset_digest": wanted.digest,
            "tables": wanted.digests,
            "counts": counts,
            "parquet": exported,
        },
    )
    for name, rows in counts.items():
        ctx.output.metric(f"rows/{name}", rows)
    ctx.output.metric("dataset_digest", wanted.digest)
    ctx.report.table("index", [{"table": name, "rows": rows} for name, rows in counts.items()])
    ctx.report.markdown(
        "dataset",
        f"**{version.name}** version {version.version}, snapshot {version.snapshot_id}: "
        f'`kontext sql --at {version} "select * from pairs_by_category"`',
    )


def renew(ctx: StageContext[IndexConfig]) -> None:
    """Where another version has followed, commit this one again: what is reused is the newest."""
    name = ctx.upstream("shard", ShardConfig).dataset
    before = [v for v in Catalog(ctx.catalog, ctx.store_url).datasets() if v.name == name]
    if before and before[-1].dataset_digest != ctx.output.metrics["dataset_digest"]:
        version, _ = _commit(ctx, _wanted(ctx))
        ctx.log.info("committed again as %s", version)


def _wanted(ctx: StageContext[IndexConfig]) -> _Wanted:
    inputs = {name: reader.digest for name, reader in ctx.inputs.items()}
    files = {name: _files(ctx.inputs[stage], file) for name, (stage, file) in _SOURCES.items()}
    files |= _without_refused(ctx, files)
    policy = policy_table(ctx.inputs["screen"].json("policy.json")["thresholds"])
    digests = {name: _digest(paths) for name, paths in files.items()}
    digests["policy"] = hashlib.sha256(str(policy.to_pylist()).encode()).hexdigest()
    identity = json.dumps({"inputs": inputs, "tables": digests}, sort_keys=True)
    artifacts = [ref for reader in ctx.inputs.values() for ref in _deciding(reader)]
    decisions = Ledger(open_store(ctx.store_url), ctx.home).table(artifacts)
    return _Wanted(
        ctx.upstream("shard", ShardConfig).dataset,
        hashlib.sha256(identity.encode()).hexdigest(),
        {**files, "policy": policy, "safety_decisions": decisions},
        digests,
        inputs,
    )


def _deciding(artifact: Artifact) -> list[str]:
    """Whose decisions are about what an artifact holds: of what was swept, and the sweep's too."""
    swept = artifact.manifest.config.get("swept")
    before = artifact.manifest.config.get("swept_from", [])
    own = [artifact.digest, *before]
    return [f"{artifact.stage}/{digest}" for digest in own] + ([f"sweep/{swept}"] if swept else [])


def _without_refused(
    ctx: StageContext[IndexConfig], files: Mapping[str, list[Path]]
) -> dict[str, list[Path]]:
    """The tables that say what pictures show, without what the policy refused: nobody can query it.

    A refused picture has no row of images; its pairs have theirs, without words or names.
    """
    screen = ctx.inputs["screen"]
    if not screen.names("refused.parquet"):  # of an earlier kontext
        return {}
    refused = set(screen.table("refused.parquet")["pixel_id"].to_pylist())
    theirs = _pairs_of(ctx.inputs["mine"], refused) if refused else set[str]()

    def rows(table: pa.Table, column: str, names: Collection[str]) -> pa.ChunkedArray:
        return pc.is_in(table[column], value_set=pa.array(sorted(names), pa.string()))

    def images(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(rows(table, "pixel_id", refused)))

    def blank(table: pa.Table) -> pa.Table:
        mine = rows(table, "pair_id", theirs)
        for name in {*CAPTION_TEXTS, "params", "group_key"} & set(table.column_names):
            place = table.schema.get_field_index(name)
            said = pc.if_else(mine, "{}" if name == "params" else "", table[name])
            table = table.set_column(place, table.schema.field(place), said)
        return table

    changes = {"images": images, "pairs": blank, "captions": blank}
    return {
        name: [_changed(path, change, ctx.scratch / f"{name}-{n}.parquet")
               for n, path in enumerate(files[name])]
        for name, change in changes.items()
    } if refused else {}  # fmt: skip


def _pairs_of(mined: Artifact, images: Collection[str]) -> set[str]:
    """The pairs that show one of the images."""
    pairs = mined.table("pairs.parquet", ["pair_id", "context_ids", "target_id"])
    named, lists = pa.array(sorted(images), pa.string()), pairs["context_ids"].combine_chunks()
    theirs = np.array(pc.is_in(pairs["target_id"], value_set=named))
    beside = np.asarray(pc.is_in(lists.flatten(), value_set=named))
    theirs[np.asarray(pc.list_parent_indices(lists))[beside]] = True
    return set(pairs["pair_id"].filter(pa.array(theirs)).to_pylist())


def _changed(path: Path, change: Callable[[pa.Table], pa.Table], to: Path) -> Path:
    """The file, or another one where the change makes a difference: one is in memory at a time."""
    table = read_parquet(path)
    changed = change(table)
    if changed.equals(table):
        return path
    to.write_bytes(parquet_bytes(changed))
    return to


def _commit(ctx: StageContext[IndexConfig], wanted: _Wanted) -> tuple[DatasetVersion, str]:
    """The version in the catalog, and where it lies as Parquet."""
    catalog, objects = Catalog(ctx.catalog, ctx.store_url), open_store(ctx.store_url)
    _check_splits(ctx, catalog, wanted.name)
    version = catalog.commit_dataset(
        wanted.name, wanted.digest, wanted.tables, wanted.inputs, ctx.config.message
    )
    return version, export_version(catalog, objects, version)


def _check_splits(ctx: StageContext[IndexConfig], catalog: Catalog, dataset: str) -> None:
    """Refuse pictures that the latest version has in another split.

    There are none unless that version was made at the same time, so that neither knew the other.
    Raises GateError.
    """
    made = catalog.newest_input(dataset, "shard")
    store = ArtifactStore(open_store(ctx.store_url), ctx.home / "cache" / "blobs")
    latest = store.manifest("shard", made) if made else None
    if latest is None:
        return
    was, now = _picture_splits(Artifact(store, latest)), _picture_splits(ctx.inputs["shard"])
    moved = [i for i in was.keys() & now if len({was[i], now[i]} - {"nowhere"}) == 2]
    if moved:
        raise GateError(
            f"another version of '{dataset}' was committed meanwhile, and has {len(moved):,} "
            "pictures in other splits: `kontext run --only shard --force` goes on from both"
        )


def _picture_splits(shards: Artifact) -> dict[str, str]:
    if not shards.names("picture_splits.parquet"):  # of an earlier kontext
        return {}
    columns = shards.table("picture_splits.parquet").to_pydict()
    return dict(zip(columns["pixel_id"], columns["split"], strict=True))


def _files(reader: Artifact, file: str) -> list[Path]:
    listed = file.endswith("/") or file in _NOT_ALWAYS
    names = reader.names(file) if listed else [file]
    return [reader.path(name) for name in names]


def _digest(paths: list[Path]) -> str:
    return hashlib.sha256("\n".join(sha256_file(path) for path in paths).encode()).hexdigest()


def _rows(source: TableSource) -> int:
    if isinstance(source, pa.Table):
        return int(source.num_rows)
    return sum(pq.read_metadata(path).num_rows for path in source)
