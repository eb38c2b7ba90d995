"""An artifact without what a sweep takes: rows filtered, shards cut, everything else shared."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kontext.data.shards.write import BLOCK, KEY_LENGTH, map_file
from kontext.data.sweep.find import Taken
from kontext.engine.versions import manifest_of
from kontext.safety.ledger import Ledger
from kontext.safety.ledger_check import DECIDING, DECISIONS_FILE
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore, ArtifactWriter
from kontext.store.parquet import read_parquet
from schemas.manifest import Manifest, artifact_digest
from schemas.tables import DECISIONS, JUDGED_TEXTS, OUTCOMES, SHARD_MEMBERS, SHARDS

CHANGES_RESULTS = False  # removes what was made; a stage never asks it

SWEPT, FROM = "swept", "swept_from"  # keys of a manifest's config: the sweep, and what was there
_IDS = ("pixel_id", "pair_id", "context_ids", "target_id", "key", "source", "source_ref")
_JUDGED = (JUDGED_TEXTS.names, ["key", "score"])  # as they are, and as they were without a key
_NAMES = ("source_ref", "context", "target")  # columns that name an item of the row's source


@dataclass(frozen=True)
class Gone:
    """What rows must not be about."""

    taken: Taken
    pairs: set[str]  # ids
    texts: set[str]  # captions of nothing but these pairs


def rewritten(
    artifact: Artifact, inputs: dict[str, str], gone: Gone, sweep: str, scratch: Path
) -> tuple[Manifest, int]:
    """The artifact without what is gone, committed beside the old one; how many tars were cut."""
    began, store, old = time.monotonic(), artifact._store, artifact.manifest
    before = [old.digest, *old.config.get(FROM, [])]
    config = {**old.config, SWEPT: sweep, FROM: before}
    digest = artifact_digest(old.stage, old.code_digest, config, inputs)
    writer = store.writer(old.stage, digest)
    cut = _shards(artifact, gone, writer, scratch) if artifact.names("shards.parquet") else set()
    for file in old.files:
        if file.name in writer.files or file.name in cut:
            continue
        table = _table(artifact, file.name, gone) if file.name.endswith(".parquet") else None
        if table is None:
            writer.files[file.name] = file  # the same blob
        else:
            writer.add_table(file.name, table)
    writer.metrics = {**old.metrics, "swept_pairs": len(gone.pairs)}
    writer.notes = [*old.notes, f"swept: {len(gone.taken.why)} pictures are gone (sweep/{sweep})"]
    writer.kernels = dict(old.kernels)
    made = manifest_of(
        writer, old.code, config, inputs, began=began, recipe=old.recipe, run=old.run
    ).model_copy(update={"packages": old.packages, "git_commit": old.git_commit})
    return made, len(cut)


def enter(store: ArtifactStore, ledger: Ledger, made: Manifest) -> Manifest:
    """Commit a rewritten artifact, with its own part of the ledger first."""
    if made.stage in DECIDING:
        ledger.append(made.stage, made.digest, DECISIONS.empty_table(), run=made.run)
    return store.writer(made.stage, made.digest).commit(made)


def _table(artifact: Artifact, name: str, gone: Gone) -> pa.Table | None:
    """The table without the rows that are gone; None where all stay."""
    if name == DECISIONS_FILE and artifact.stage in DECIDING:
        return DECISIONS.empty_table()  # the earlier ones are in the ledger, under its old name
    path = artifact.path(name)
    known = pq.read_schema(path).names
    if known in _JUDGED:
        return JUDGED_TEXTS.empty_table()  # nothing says which are of these pairs
    columns = [column for column in (*_IDS, "context", "target") if column in known]
    if not columns:
        return None
    stay = _stay(read_parquet(path, columns), gone)
    whole = bool(pc.all(stay).as_py()) if len(stay) else True
    if name == "outcomes.parquet":
        # without keys no later ingest takes anything from here: decisions have no rows beside them
        table = read_parquet(path).filter(stay)
        empty = pa.array([""] * len(table), pa.string())
        return table.set_column(table.schema.get_field_index("item"), "item", empty).cast(OUTCOMES)
    return None if whole else read_parquet(path).filter(stay)


def _stay(table: pa.Table, gone: Gone) -> pa.Array:
    stay = pa.array([True] * len(table), pa.bool_())
    for column, ids in (
        ("pixel_id", gone.taken.why),
        ("target_id", gone.taken.why),
        ("pair_id", gone.pairs),
        ("key", gone.taken.why.keys() | gone.texts),
    ):
        if column in table.column_names:
            stay = pc.and_(stay, pc.invert(_among(table[column], ids)))
    if "context_ids" in table.column_names:
        lists = table["context_ids"].combine_chunks()
        inside = pc.filter(
            pc.list_parent_indices(lists), _among(pc.list_flatten(lists), gone.taken.why)
        )
        rows = pa.array(range(len(table)), pa.int64())
        stay = pc.and_(stay, pc.invert(pc.is_in(rows, value_set=inside.unique().cast(pa.int64()))))
    for column in _NAMES:
        if column in table.column_names and "source" in table.column_names and gone.taken.names:
            named = zip(table["source"].to_pylist(), table[column].to_pylist(), strict=True)
            kept = pa.array([name not in gone.taken.names for name in named], pa.bool_())
            stay = pc.and_(stay, kept)
    return stay.combine_chunks() if isinstance(stay, pa.ChunkedArray) else stay


def _among(column: Any, ids: Any) -> Any:
    return pc.is_in(column, value_set=pa.array(sorted(ids), pa.string()))


def _shards(artifact: Artifact, gone: Gone, writer: ArtifactWriter, scratch: Path) -> set[str]:
    """Cut the tars that hold a pair that is gone; all others stay as they are, byte for byte."""
    shards = artifact.table("shards.parquet").to_pylist()
    members = artifact.table("shard_members.parquet")
    lost = members.filter(_among(members["pair_id"], gone.pairs))
    hit = set(lost["shard_id"].to_pylist())
    if not hit:
        return set()
    same = members.filter(pc.invert(_among(members["shard_id"], hit)))
    rows, places, cut = [], [], set()
    for shard in shards:
        if shard["shard_id"] not in hit:
            rows.append(shard)
            continue
        own = members.filter(pc.equal(members["shard_id"], shard["shard_id"])).to_pylist()
        kept = [place for place in own if place["pair_id"] not in gone.pairs]
        cut.add(shard["name"])
        if kept:
            path = scratch / shard["name"]
            found = _cut(artifact.path(shard["name"]), kept, path)
            rows.append(_shard_row(shard, kept, path))
            places += [{**place, "shard_id": rows[-1]["shard_id"]} for place in found]
            writer.add_file(shard["name"], path)
            path.unlink()
    writer.add_table("shards.parquet", pa.Table.from_pylist(rows, SHARDS))
    table = pa.concat_tables([same, pa.Table.from_pylist(places, SHARD_MEMBERS)])
    order = {row["shard_id"]: number for number, row in enumerate(rows)}
    numbers = pa.array([order[one] for one in table["shard_id"].to_pylist()], pa.int64())
    sorted_ = pc.sort_indices(
        pa.table({"shard": numbers, "at": table["offset_bytes"]}),
        sort_keys=[("shard", "ascending"), ("at", "ascending")],
    )
    writer.add_table("shard_members.parquet", table.take(sorted_))
    return cut


def _cut(source: Path, kept: list[dict[str, Any]], target: Path) -> list[dict[str, Any]]:
    """Copy samples, header and all, into a tar of their own: just what writing them would give."""
    data, places, start = map_file(source), [], 0
    with target.open("wb") as file:
        for place in kept:
            offset, length = place["offset_bytes"], place["length_bytes"]
            file.write(data[offset : offset + length])
            moved = start - offset
            files = [{**one, "offset_bytes": one["offset_bytes"] + moved} for one in place["files"]]
            places.append({**place, "offset_bytes": start, "files": files})
            start += length
        file.write(bytes(2 * BLOCK))
    return places


def _shard_row(shard: Mapping[str, Any], kept: list[dict[str, Any]], path: Path) -> dict[str, Any]:
    keys = [place["pair_id"][:KEY_LENGTH] for place in kept]
    ids = "\n".join(place["pair_id"] for place in kept)
    data = path.read_bytes()
    return {
        **shard,
        "shard_id": hashlib.sha256(f"{shard['split']}\n{ids}".encode()).hexdigest()[:KEY_LENGTH],
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "samples": len(kept),
        "first_key": keys[0],
        "last_key": keys[-1],
    }


def texts_of(caption: Artifact, pairs: set[str]) -> set[str]:
    """Texts that nothing but these pairs has."""
    from schemas.tables import CAPTION_TEXTS

    table = caption.table("captions.parquet")
    mine = _among(table["pair_id"], pairs)
    lost, rest = table.filter(mine), table.filter(pc.invert(mine))
    others = {text for name in CAPTION_TEXTS for text in rest[name].to_pylist()}
    return {text for name in CAPTION_TEXTS for text in lost[name].to_pylist()} - others
