"""Making things again from their manifests: one artifact, to compare bytes, or the whole catalog.

A manifest holds its stage's resolved recipe section and its inputs' digests, so the manifests of a
store are enough to repeat every stage, wherever the store has been copied to.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from kontext.engine.chunks import map_chunks
from kontext.engine.fingerprint import code_digest, code_of
from kontext.engine.stage import Reporter, Stage, StageContext, section_in, section_of
from kontext.errors import ArtifactError, LedgerError
from kontext.safety.ledger import IMPORTED, Ledger
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from kontext.store.artifacts.transfer import Transfer, copy_artifacts
from kontext.store.objects import open_store
from kontext.store.parquet import parquet_bytes
from schemas.manifest import Manifest
from schemas.recipe import Recipe
from schemas.sections.base import Section
from schemas.tables import DECISIONS

if TYPE_CHECKING:
    from kontext.store.catalog.catalog import Catalog

CHANGES_RESULTS = False  # compares what is there

_DECISIONS = "decisions.parquet"
_LOG = logging.getLogger("kontext.engine.remake")


@dataclass(frozen=True)
class Remade:
    """An artifact that was made again, beside the one in the store."""

    ref: str  # stage/digest
    files: int
    different: tuple[str, ...]  # files whose bytes are not the stored ones, or exist on one side
    code_changed: bool  # today's code is not the code that made it


@dataclass(frozen=True)
class Rebuilt:
    """A catalog that was written again."""

    runs: int
    datasets: tuple[str, ...]  # name@vN
    different: tuple[str, ...]  # index artifacts whose dataset does not have the recorded digest


def remake(store: ArtifactStore, ref: str, home: Path, stages: Mapping[str, Stage]) -> Remade:
    """Run an artifact's stage again on its stored inputs, apart from the store, and compare bytes.

    Raises ArtifactError for an unknown reference, a missing input, or `index` (whose output is the
    catalog: see `rebuild_catalog`), and whatever the stage itself refuses.
    """
    manifest = store.show(ref).manifest
    if manifest.stage == "index":
        raise ArtifactError("index writes the catalog: `kontext catalog rebuild` makes that again")
    stage = _stage(manifest, stages)
    with _made_again(store, manifest, stage, home) as artifact:
        stored, made = ({f.name: f.sha256 for f in m.files} for m in (manifest, artifact.manifest))
    names = sorted({*stored, *made})
    different = tuple(name for name in names if stored.get(name) != made.get(name))
    changed = manifest.code_digest != code_digest(code_of(stage, _section(manifest, stage)))
    return Remade(f"{manifest.stage}/{manifest.digest}", len(names), different, changed)


def rebuild_catalog(
    store: ArtifactStore, catalog: Catalog, home: Path, stages: Mapping[str, Stage]
) -> Rebuilt:
    """Write a catalog from the manifests alone: runs, artifacts, metrics and dataset versions.

    Raises ArtifactError where the catalog holds datasets already.
    """
    if catalog.datasets():
        raise ArtifactError(f"the catalog {catalog} holds datasets: rebuild into an empty one")
    manifests = store.list()
    runs = record_all(store, catalog, manifests)
    datasets: list[str] = []
    different: list[str] = []
    for manifest in manifests:
        if manifest.stage != "index":
            continue
        stage = _stage(manifest, stages)
        with _made_again(store, manifest, stage, home, str(catalog.path)) as artifact:
            found = artifact.json("index.json")
        if found["dataset_digest"] != manifest.metrics["dataset_digest"]:
            different.append(f"index/{manifest.digest}")
        datasets.append(f"{found['dataset']}@v{found['version']}")
    return Rebuilt(runs, tuple(dict.fromkeys(datasets)), tuple(different))


def record_all(store: ArtifactStore, catalog: Catalog, manifests: Iterable[Manifest]) -> int:
    """Enter finished stages that the catalog lacks, or knows less of; how many those were."""
    return sum(catalog.record(manifest, Artifact(store, manifest)) for manifest in manifests)


def import_artifacts(
    source: ArtifactStore,
    target: ArtifactStore,
    ref: str | None,
    files_of: Collection[str] | None = None,
    home: Path | None = None,
    check: Callable[[Artifact], object] | None = None,
) -> Transfer:
    """Copy artifacts into a store and enter their safety decisions into its ledger.

    For the other arguments and errors see `kontext.store.artifacts.transfer.copy_artifacts`.

    Args:
        home: the home that writes to the target, whose key signs its ledger. None for an export,
            which has no ledger: whoever imports it enters the decisions into theirs.
        check: called with every artifact that comes, before anything of any is copied.
    """
    ledger = None if home is None else Ledger(target.objects, home)

    def enter(manifest: Manifest) -> None:
        if ledger is None:
            return
        for file in manifest.files:
            if file.name == _DECISIONS:  # as the engine does: before the manifest
                path = source.blob_path(file)
                run = f"{IMPORTED}{manifest.run}"  # we sign that it came, not that we decided it
                ledger.append(manifest.stage, manifest.digest, path, run=run)

    def look(manifest: Manifest) -> None:
        if ledger is not None:
            _known(ledger, Artifact(source, manifest))
        if check is not None:
            check(Artifact(source, manifest))

    return copy_artifacts(
        source, target, ref, files_of=files_of, before_any=look, before_manifest=enter
    )


def _known(ledger: Ledger, artifact: Artifact) -> None:
    """Raise LedgerError where our ledger has other decisions of an artifact than come with it."""
    name = f"{artifact.stage}/{artifact.digest}"
    if not any(segment.artifact == name for segment in ledger.segments()):
        return
    own = ledger.table([name]).select(DECISIONS.names).cast(DECISIONS)
    come = artifact.table(_DECISIONS) if artifact.names(_DECISIONS) else None
    # as bytes: a score that is no number is unequal to itself
    if come is None or come.schema.names != own.schema.names:
        same = False
    else:
        same = parquet_bytes(come.cast(DECISIONS)) == parquet_bytes(own)
    if not same:
        raise LedgerError(
            f"{name} comes with other decisions than the ledger has of it: nothing was imported"
        )


def _stage(manifest: Manifest, stages: Mapping[str, Stage]) -> Stage:
    if manifest.stage not in stages:
        raise ArtifactError(f"no stage '{manifest.stage}' in this version of kontext")
    return stages[manifest.stage]


def _section(manifest: Manifest, stage: Stage) -> Section:
    return section_of(manifest, type(section_in(Recipe(), stage)))


@contextmanager
def _made_again(
    store: ArtifactStore, manifest: Manifest, stage: Stage, home: Path, catalog: str = ""
) -> Iterator[Artifact]:
    """The stage's output on its stored inputs, in a store of its own that is removed afterwards."""
    (home / "scratch").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="remake-", dir=home / "scratch") as temporary:
        apart = ArtifactStore(open_store(f"file://{temporary}/store"), Path(temporary, "cache"))
        writer = apart.writer(manifest.stage, manifest.digest)
        context = StageContext(
            config=_section(manifest, stage),
            digest=manifest.digest,
            inputs={name: store.open(name, digest) for name, digest in manifest.inputs.items()},
            output=writer,
            map_chunks=partial(map_chunks, objects=apart.objects, prefix="runs/remade/work"),
            scratch=Path(temporary),
            home=home,
            store_url=store.objects.url,
            report=Reporter(_LOG),
            catalog=catalog,
            before=[store.open(stage.name, d) for d in manifest.config.get("before", ())],
            log=logging.getLogger(f"kontext.stages.{manifest.stage}"),
        )
        resolve_name(f"{stage.module}:run")(context)
        files = list(writer.files.values())
        yield Artifact(apart, manifest.model_copy(update={"files": files}))
