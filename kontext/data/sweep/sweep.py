"""The sweep: today's lists against everything that was kept, and new versions of datasets.

For every dataset whose newest version holds what is taken, its artifacts up to `shard` are written
again without it, and stage index commits them as the next version. Nothing is mined, captioned or
decoded again, and shards that held none of it are the same blobs. Each sweep that takes something
is an artifact `sweep/<digest>`: its decisions are in the ledger, and its record names what consumed
what was taken. Pictures are named by HMAC alone.

Killed at any point, it is run again: it makes the same artifacts and goes on.
"""

import hashlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from kontext.data.sweep.consumers import Consumer, consumers
from kontext.data.sweep.find import OptedOut, Taken, find, pairs_of
from kontext.data.sweep.rewrite import Gone, enter, rewritten, texts_of
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter, Stage, section_of
from kontext.engine.versions import manifest_of
from kontext.safety.hashes import OPERATOR, HashGate
from kontext.safety.ids import Check, Decision, Outcome, subject_hmac
from kontext.safety.keys import run_key
from kontext.safety.ledger import Ledger
from kontext.safety.own_work import is_own, vouch
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.versions import DatasetVersion
from schemas.manifest import Manifest, artifact_digest
from schemas.recipe import Recipe
from schemas.sections.data import IndexConfig
from schemas.tables import DECISIONS, TOMBSTONES

CHANGES_RESULTS = False  # removes what was made; a stage never asks it

STAGE, RECORD, POLICY = "sweep", "sweep.json", "sweep/1"
_DATA = ("ingest", "mine", "caption", "screen", "shard")  # written again, in this order
_LOG = logging.getLogger("kontext.data.sweep")


@dataclass(frozen=True)
class Place:
    """Where a sweep works."""

    store: ArtifactStore
    catalog: Catalog
    home: Path
    stages: Mapping[str, Stage]


@dataclass
class Swept:
    """What a sweep found and did."""

    lists: str  # names and versions
    kept: int  # pictures that were looked at
    taken: Counter[str]  # reason -> pictures
    new: int  # of them not known to an earlier sweep
    consumers: list[Consumer]
    digest: str = ""  # of its artifact; empty where nothing was new
    versions: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """For JSON."""
        own = {**vars(self), "taken": dict(sorted(self.taken.items()))}
        return {**own, "consumers": [one.record() for one in self.consumers]}


def sweep(
    place: Place,
    gate: HashGate,
    opted_out: OptedOut = lambda *_: False,
    *,
    deep: bool = False,
    dry_run: bool = False,
) -> Swept:
    """Match everything that was kept, and take what is hit out of every dataset's newest version.

    `deep` hashes the stored pixels again; `dry_run` changes nothing.

    Args:
        gate: with the canaries' own list (`kontext.safety.proof.whole_gate`), by which it is proved
            that what was kept is looked up.

    Raises:
        CanaryError: it is not; nothing was changed.
        GateError, LedgerError: the home's key or the ledger cannot be used.
        KontextError: whatever stage index refuses.
    """
    began, store = time.monotonic(), place.store
    taken = find(store, gate, opted_out, deep=deep)
    lists = "+".join(item.name for item in gate.lists[1:] if item.provider != OPERATOR)
    reasons = Counter(str(reason) for reason, _ in taken.why.values())
    before = _known(store)
    tombstones = _tombstones(taken, run_key(place.home))
    new = [row for row in tombstones if row["pixel_hmac"] not in before]
    found = Swept(lists, taken.kept, reasons, len(new), consumers(store, taken))
    affected = _affected(place, taken)
    if not dry_run and (new or affected):
        hit = sorted(row["pixel_hmac"] for row in tombstones)
        config = {"lists": lists, "datasets": {v.name: d for v, d in affected}, "hit": _sum(hit)}
        found.digest = artifact_digest(STAGE, POLICY, config, {})
        decisions = _decisions(new, lists)
        Ledger(store.objects, place.home).append(STAGE, found.digest, decisions)
        for version, _ in affected:
            found.versions.append(_new_version(place, version, taken, found.digest))
        found.seconds = round(time.monotonic() - began, 3)
        _commit(store, found, config, tombstones, decisions, began)
    found.seconds = round(time.monotonic() - began, 3)
    return found


def _affected(place: Place, taken: Taken) -> list[tuple[DatasetVersion, str]]:
    """Newest versions of datasets whose pictures include one that is taken, with their shards."""
    newest = {version.name: version for version in place.catalog.datasets()}
    found = []
    for version in newest.values():
        inputs = dict(place.catalog.inputs(version))
        if inputs.get("ingest") in taken.holders:
            found.append((version, inputs["shard"]))
    return found


def _new_version(
    place: Place, version: DatasetVersion, taken: Taken, sweep_digest: str
) -> dict[str, Any]:
    """Write a dataset's artifacts again and commit them as its next version."""
    store, inputs = place.store, dict(place.catalog.inputs(version))
    old = {stage: store.open(stage, inputs[stage]) for stage in _DATA}
    pairs = pairs_of(old["mine"], taken)
    gone = Gone(taken, pairs, texts_of(old["caption"], pairs))
    ledger, made, cut = Ledger(store.objects, place.home), dict[str, Manifest](), 0
    (place.home / "scratch").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sweep-", dir=place.home / "scratch") as scratch:
        for stage, artifact in old.items():
            own = {name: made[name].digest for name in artifact.manifest.inputs if name in made}
            manifest, tars = rewritten(artifact, own, gone, sweep_digest, Path(scratch))
            made[stage] = enter(store, ledger, manifest)
            ours = is_own(store.objects, place.home, artifact.manifest)
            if ours and made[stage] is manifest:  # what is left of it is ours as it was
                vouch(store.objects, place.home, made[stage])
            place.catalog.record(made[stage], Artifact(store, made[stage]))
            cut += tars
            if store.tagged(f"latest/{stage}") == (stage, artifact.digest):
                store.tag(f"latest/{stage}", stage, made[stage].digest)
    index = _index_of(store, inputs)
    committed = _commit_version(place, index, {name: m.digest for name, m in made.items()})
    _LOG.info("%s: %d pairs are gone, %d shards were cut", committed, len(pairs), cut)
    shards = made["shard"].files
    return {
        "before": str(version),
        "after": str(committed),
        "pairs": len(pairs),
        "shards_cut": cut,
        "shards_same": sum(file.name.endswith(".tar") for file in shards) - cut,
        "artifacts": {name: m.digest for name, m in made.items()},
    }


def _index_of(store: ArtifactStore, inputs: Mapping[str, str]) -> Manifest | None:
    found = [m for m in store.list("index") if m.inputs == {s: inputs[s] for s in _DATA}]
    return found[-1] if found else None


def _commit_version(
    place: Place, index: Manifest | None, pins: Mapping[str, str]
) -> DatasetVersion:
    """The next version, by stage index itself."""
    default = place.store.tagged("latest/dataset")
    recipe = Recipe(
        name=index.recipe if index else "swept",
        index=section_of(index, IndexConfig) if index else IndexConfig(),
        as_default=bool(index) and default == ("index", index.digest if index else ""),
    )
    engine = Engine(
        recipe,
        place.store.objects.url,
        place.catalog.path,
        place.home,
        stages=place.stages,
        pins=pins,
    )
    outcome = engine.run_stage("index", Reporter(_LOG))
    said = Artifact(place.store, outcome.manifest).json("index.json")
    return next(
        version for version in reversed(place.catalog.datasets()) if version.name == said["dataset"]
    )


def _commit(
    store: ArtifactStore,
    found: Swept,
    config: dict[str, Any],
    tombstones: list[dict[str, Any]],
    decisions: pa.Table,
    began: float,
) -> None:
    writer = store.writer(STAGE, found.digest)
    writer.add_json(RECORD, found.record())
    writer.add_table("tombstones.parquet", pa.Table.from_pylist(tombstones, TOMBSTONES))
    writer.add_table("decisions.parquet", decisions)
    writer.metrics = {"kept": found.kept, "taken": sum(found.taken.values()), "new": found.new}
    writer.commit(manifest_of(writer, {}, config, {}, began=began))
    store.tag(f"{STAGE}@{found.digest}", STAGE, found.digest)
    store.tag(f"latest/{STAGE}", STAGE, found.digest)


def _known(store: ArtifactStore) -> set[str]:
    """Pictures that earlier sweeps have taken, by HMAC."""
    tables = [Artifact(store, m).table("tombstones.parquet") for m in store.list(STAGE)]
    return {one for table in tables for one in table["pixel_hmac"].to_pylist()}


def _tombstones(taken: Taken, key: bytes) -> list[dict[str, Any]]:
    rows = [
        {
            "subject_hmac": subject_hmac(taken.image_of.get(pixels, pixels), key),
            "pixel_hmac": subject_hmac(pixels, key),
            "reason": str(reason),
            "provider": provider,
        }
        for pixels, (reason, provider) in taken.why.items()
    ]
    return sorted(rows, key=lambda row: row["pixel_hmac"])


def _decisions(rows: list[dict[str, Any]], lists: str) -> pa.Table:
    decisions = [
        Decision(
            "image",
            row["subject_hmac"],
            Check.SWEEP,
            row["provider"] or lists,
            Outcome.DROP,
            row["reason"],
            POLICY,
        )._asdict()
        for row in rows
    ]
    return pa.Table.from_pylist(decisions, DECISIONS)


def _sum(hmacs: list[str]) -> str:
    return hashlib.sha256("\n".join(hmacs).encode()).hexdigest()[:16]
