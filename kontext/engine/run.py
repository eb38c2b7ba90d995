"""The engine: which stages are done, which must run, and running one.

A stage is done when its manifest exists. Digests of the whole graph are known in advance, because
a digest covers code, recipe section and input digests, never output bytes.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from kontext.engine import acceptance
from kontext.engine.chunks import clear_work, kept_unless_gated, map_chunks
from kontext.engine.earlier import elsewhere, made_by_same_code, made_of_own, require_let_in
from kontext.engine.fingerprint import code_digest, code_of
from kontext.engine.graph import downstream, of_recipe, stage_named
from kontext.engine.outside import Outside
from kontext.engine.planning import planned
from kontext.engine.series import before_of, require_compared
from kontext.engine.stage import (
    PlannedStage,
    Reporter,
    Stage,
    StageContext,
    StageOutcome,
    StageStatus,
    section_in,
)
from kontext.engine.versions import manifest_of
from kontext.errors import ArtifactError, CatalogError, ObjectNotFound
from kontext.safety.ledger import Ledger
from kontext.safety.own_work import vouch
from kontext.store.artifacts.artifact_store import (
    Artifact,
    ArtifactStore,
    ArtifactWriter,
    run_prefix,
    work_prefix,
)
from kontext.store.objects import open_store
from schemas.manifest import Manifest, artifact_digest
from schemas.recipe import Recipe

if TYPE_CHECKING:
    from kontext.store.catalog.catalog import Catalog

CHANGES_RESULTS = False  # decides what runs, not what comes out

_LOG = logging.getLogger("kontext.engine.run")
_RUN = "run.txt"  # in a scratch folder: the orchestrator's run that works there


class Engine:
    """Runs the stages of one recipe against one store.

    `run` names the orchestrator's run. With an empty `catalog`, runs are not entered in one.
    `stop` is asked by long stages whether to save and raise Stopped. `pins` (stage -> digest) are
    finished artifacts to take as they are, whatever the recipe and today's code would make of
    those stages.
    """

    def __init__(
        self,
        recipe: Recipe,
        store_url: str,
        catalog: str | Path,
        home: Path,
        *,
        stages: Mapping[str, Stage],
        run: str = "",
        stop: Callable[[], bool] = lambda: False,
        pins: Mapping[str, str] | None = None,
    ) -> None:
        self.recipe = recipe
        self.home = home.expanduser().resolve()
        self.home.mkdir(parents=True, exist_ok=True)
        self.objects = open_store(store_url)
        self.artifacts = ArtifactStore(self.objects, self.home / "cache" / "blobs")
        self._catalog = str(catalog)
        self.ledger = Ledger(self.objects, self.home)
        self.run = run
        self.stop = stop
        self._all, self._stages = stages, of_recipe(stages, recipe)
        self._pins = dict(pins or {})
        for name, digest in self._pins.items():
            self._known(name)
            self.artifacts.open(name, digest)
        self._outside = Outside(recipe, self.artifacts, self.home, self._pins)
        self._accepted: dict[str, acceptance.Acceptance | None] = {}  # of the stages in `digests`
        self._before: dict[str, Sequence[str]] = {}  # digest -> artifacts that it goes on from

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog, opened when it is first asked for. Raises CatalogError without one."""
        if not self._catalog:
            raise CatalogError("this run has no catalog")
        # here, because a training machine may have no DuckDB
        from kontext.store.catalog.catalog import Catalog

        return Catalog(self._catalog, self.objects.url)

    def digests(self) -> dict[str, str]:
        """The digest of every stage's artifact for this recipe, made or not, in graph order."""
        found: dict[str, str] = {}
        for name, stage in self._stages.items():
            if name in self._pins:
                found[name] = self._pins[name]
                continue
            inputs = {source: found[source] for source in stage.inputs}
            attempt = self._attempt(stage, inputs)
            accepted = self._acceptance(name, self._digest(stage, inputs, attempt))
            found[name] = accepted.artifact if accepted else self._continued(stage, inputs, attempt)
        return found

    def accept(self, name: str, command: str) -> Manifest:
        """Take the newest artifact of a stage as it is, although its code has changed since.

        Only one that was made from the same section and inputs. Does nothing where today's code
        has made one. `command` is what the user typed, for the record.

        Raises ArtifactError where there is no such artifact; it says how the newest one differs.
        """
        stage, digests = self._known(name), self.digests()
        inputs = {source: digests[source] for source in stage.inputs}
        if name in self._pins or self.artifacts.exists(name, digests[name]):
            return self.artifacts.open(name, digests[name]).manifest
        before, config = self.artifacts.list(name), self._config(stage, 0)
        found = acceptance.newest_match(before, config, inputs)
        if found is None:
            why = self._difference(stage, before[-1], digests) if before else "it was never made"
            raise ArtifactError(f"no artifact of '{name}' can be accepted: {why}")
        today = self._digest(stage, inputs, self._attempt(stage, inputs))
        acceptance.write_acceptance(self.objects, name, today, found, self._code(stage), command)
        return found

    def _acceptance(self, name: str, digest: str) -> acceptance.Acceptance | None:
        """The record that another artifact is to be used for this one, while that is there."""
        accepted = acceptance.read_acceptance(self.objects, name, digest)
        if accepted is not None and not self.artifacts.exists(name, accepted.artifact):
            accepted = None
        self._accepted[name] = accepted
        return accepted

    def artifact(self, name: str) -> Artifact:
        """The finished artifact of a stage for this recipe. Raises ArtifactError."""
        self._known(name)
        return self.artifacts.open(name, self.digests()[name])

    def status(self) -> list[StageStatus]:
        """State of every stage, in graph order, with why."""
        digests = self.digests()
        return [self._status(stage, digests) for stage in self._stages.values()]

    def plan(
        self, only: str | None = None, from_: str | None = None, force: tuple[str, ...] = ()
    ) -> list[PlannedStage]:
        """The stages to go through, in order, and which of them are reused as they are.

        `only` means a stage and what follows from it, `from_` a stage and everything after it in
        order. Raises ArtifactError when a stage they need from before is missing.
        """
        for name in (*force, *filter(None, (only, from_))):
            self._known(name)
            if name in self._pins:
                raise ArtifactError(f"stage '{name}' is both chosen as a version and to be run")
        names = list(self._stages) if only is None else downstream(self._stages, only)
        if only is None and from_ is not None:
            names = names[names.index(from_) :]
        states = {status.stage: status for status in self.status()}
        return planned(self._stages, names, states, force, self._pins)

    def require(self, names: Iterable[str]) -> None:
        """Raise RecipeError or WeightsError if one of these stages cannot use its given weights."""
        for name in names:
            self._outside.require(self._known(name))

    def run_stage(self, name: str, reporter: Reporter, force: bool = False) -> StageOutcome:
        """Make a stage's artifact, or reuse it if it is there.

        `force` makes another one beside it; a forced run that was interrupted is continued.

        Raises:
            ArtifactError: unknown stage, or an input has not been made.
            KontextError: whatever the stage itself refuses.
        """
        began = time.monotonic()
        stage = self._known(name)
        digests = self.digests()
        inputs = {source: digests[source] for source in stage.inputs}
        attempt = self._attempt(stage, inputs)
        digest = digests[name]
        if force and name not in self._pins and self.artifacts.exists(name, digest):
            attempt += 1
            record = json.dumps({"attempt": attempt}).encode()
            self.objects.put(self._attempt_key(stage, inputs), record)
            digest = self._continued(stage, inputs, attempt)
        for source, made in () if name in self._pins else inputs.items():
            if not self.artifacts.exists(source, made):
                raise ArtifactError(
                    f"stage '{name}' needs '{source}' ({made}), which has not been made for this "
                    "recipe: run it first"
                )
        locks = self.home / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{name}-{digest}.lock"):
            manifest = self.artifacts.manifest(name, digest)
            reused = manifest is not None
            _LOG.info("%s/%s: %s", name, digest, "reused" if reused else "running")
            if manifest is None:
                manifest = self._make(stage, inputs, attempt, digest, reporter)
            else:
                self._renew(stage, manifest, reporter)
            self._finish(stage, manifest)
        return StageOutcome(name, digest, reused, time.monotonic() - began, manifest)

    def reuse(self, name: str) -> Manifest:
        """Take a finished stage as it is: names and catalog mean it again. Raises ArtifactError."""
        stage, manifest = self._known(name), self.artifact(name).manifest
        self._renew(stage, manifest, Reporter(_LOG))
        self._finish(stage, manifest)
        return manifest

    def _make(
        self, stage: Stage, inputs: dict[str, str], attempt: int, digest: str, reporter: Reporter
    ) -> Manifest:
        began, code = time.monotonic(), self._code(stage)
        require_compared(self.artifacts, stage, self._stages, self.recipe, inputs)
        writer = self.artifacts.writer(stage.name, digest)
        context = self._context(stage, inputs, writer, reporter)
        own = made_of_own(self.artifacts, self.home, self._stages, inputs)
        if own and not attempt:  # who forces a stage wants its work done again
            context.earlier = partial(made_by_same_code, self.artifacts, self.home, stage, code)
        reporter.earlier_run = self._enter(context.scratch / _RUN)
        self._outside.require(stage)
        self._outside.check(stage)
        with kept_unless_gated(self.objects, work_prefix(stage.name, digest)):
            resolve_name(f"{stage.module}:run")(context)
        self._outside.check(stage)
        config = self._config(stage, attempt, self._before.get(digest, ()))
        manifest = manifest_of(
            writer, code, config, inputs, began=began, recipe=self.recipe.name, run=self.run
        )
        if "decisions.parquet" in writer.files:  # before the manifest: done means in the ledger
            path = self.artifacts.blob_path(writer.files["decisions.parquet"])
            self.ledger.append(stage.name, digest, path, run=self.run)
        made = writer.commit(manifest)
        if own and made is manifest:  # and not what somebody else has committed meanwhile
            vouch(self.objects, self.home, manifest)
        return made

    def _finish(self, stage: Stage, manifest: Manifest) -> None:
        """Record a manifest in catalog and tags; repeated on reuse, in case a crash left a gap."""
        name, digest = stage.name, manifest.digest
        if self._catalog:
            self.catalog.record(manifest, Artifact(self.artifacts, manifest))
        self.artifacts.tag(f"latest/{name}", name, digest)
        if stage.tag:
            own = self._tag(stage, manifest)
            self.artifacts.tag(own, name, digest)
            if self.recipe.as_default:
                self.artifacts.tag(f"latest/{own.partition('@')[0]}", name, digest)
        shutil.rmtree(self._scratch(stage, digest), ignore_errors=True)
        clear_work(self.objects, work_prefix(name, digest))

    def _renew(self, stage: Stage, manifest: Manifest, reporter: Reporter) -> None:
        """Let a stage that is reused say so elsewhere, where its inputs are still there."""
        require_let_in(self.ledger, manifest)
        there = all(self.artifacts.exists(*ref) for ref in manifest.inputs.items())
        if stage.renew and self._catalog and there:
            output = self.artifacts.writer(stage.name, manifest.digest)
            output.metrics = manifest.metrics
            context = self._context(stage, manifest.inputs, output, reporter)
            resolve_name(f"{stage.module}:{stage.renew}")(context)

    def _context(
        self, stage: Stage, inputs: dict[str, str], writer: ArtifactWriter, reporter: Reporter
    ) -> StageContext:
        scratch = self._scratch(stage, writer.digest)
        scratch.mkdir(parents=True, exist_ok=True)
        return StageContext(
            config=section_in(self.recipe, stage),
            digest=writer.digest,
            inputs={source: self._input(source, digest) for source, digest in inputs.items()},
            output=writer,
            map_chunks=partial(
                map_chunks,
                objects=self.objects,
                prefix=work_prefix(stage.name, writer.digest),
                on_done=lambda done, total: reporter.progress(done, total, "chunks"),
                on_found=lambda done, total: reporter.continued(f"chunk {done} of {total}"),
            ),
            scratch=scratch,
            home=self.home,
            store_url=self.objects.url,
            report=reporter,
            weights=self._outside.weights(stage),
            catalog=self._catalog,
            before=[
                self.artifacts.open(stage.name, each)
                for each in self._before.get(writer.digest, ())
            ],
            stop=self.stop,
            log=logging.getLogger(f"kontext.stages.{stage.name}"),
        )

    def _enter(self, path: Path) -> str:
        """Note this run in its scratch folder; returns the one that was at work there before."""
        earlier = path.read_text() if path.exists() else ""
        path.write_text(self.run)
        return earlier

    def _input(self, name: str, digest: str) -> Artifact:
        """An input as a stage sees it; if it was accepted, its notes say so."""
        found = self.artifacts.open(name, digest)
        accepted = self._accepted.get(name)
        if accepted is None:
            return found
        notes = [*found.manifest.notes, accepted.line()]
        return Artifact(self.artifacts, found.manifest.model_copy(update={"notes": notes}))

    def _status(self, stage: Stage, digests: dict[str, str]) -> StageStatus:
        name, digest = stage.name, digests[stage.name]
        if self.artifacts.exists(name, digest):
            accepted = self._accepted.get(name)
            why = "chosen version" if name in self._pins else "manifest exists"
            why += elsewhere(self.artifacts, self.home, name, digest)
            return StageStatus(name, digest, "done", accepted.line() if accepted else why)
        latest = self.artifacts.tagged(f"latest/{name}")
        before = self.artifacts.manifest(*latest) if latest else None
        if before is None:
            return StageStatus(name, digest, "missing", "never made")
        if before.recipe != self.recipe.name:  # another recipe's artifact is none of ours
            own = [m for m in self.artifacts.list(name) if m.recipe == self.recipe.name]
            if not own:
                return StageStatus(name, digest, "missing", "never made with this recipe")
            before = own[-1]
        return StageStatus(name, digest, "stale", self._difference(stage, before, digests))

    def _difference(self, stage: Stage, before: Manifest, digests: dict[str, str]) -> str:
        inputs = {source: digests[source] for source in stage.inputs}
        return acceptance.difference(before, self._code(stage), self._config(stage, 0), inputs)

    def _continued(self, stage: Stage, inputs: dict[str, str], attempt: int) -> str:
        """The digest, with the artifacts that the stage goes on from or is compared with."""
        before: Sequence[str] = ()
        if stage.continues or stage.compares:
            config, code = self._config(stage, attempt), code_digest(self._code(stage))
            graph = (stage, self._stages, self.recipe)
            before = before_of(self.artifacts, *graph, config, inputs, code)
        digest = self._digest(stage, inputs, attempt, before)
        self._before[digest] = before
        return digest

    def _digest(
        self, stage: Stage, inputs: dict[str, str], attempt: int, before: Sequence[str] = ()
    ) -> str:
        config = self._config(stage, attempt, before)
        return artifact_digest(stage.name, code_digest(self._code(stage)), config, inputs)

    def _code(self, stage: Stage) -> dict[str, str]:
        return code_of(stage, section_in(self.recipe, stage))

    def _tag(self, stage: Stage, manifest: Manifest) -> str:
        """The stage's tag, from the sections that its inputs and itself were made with."""
        made = {stage.section: manifest.config}
        for source, digest in manifest.inputs.items():
            made[self._stages[source].section] = self.artifacts.open(source, digest).manifest.config
        return stage.tag.format(**{name: SimpleNamespace(**c) for name, c in made.items()})

    def _config(self, stage: Stage, attempt: int, before: Sequence[str] = ()) -> dict[str, Any]:
        config = section_in(self.recipe, stage).model_dump(mode="json")
        added = {"attempt": attempt, "before": list(before)}
        added = {name: value for name, value in added.items() if value}
        return {**config, **self._outside.of(stage), **added}

    def _attempt_key(self, stage: Stage, inputs: dict[str, str]) -> str:
        return run_prefix(stage.name, self._digest(stage, inputs, 0)) + "attempt.json"

    def _attempt(self, stage: Stage, inputs: dict[str, str]) -> int:
        """How often this artifact was forced: the salt that keeps forced artifacts apart."""
        try:
            return int(json.loads(self.objects.get(self._attempt_key(stage, inputs)))["attempt"])
        except ObjectNotFound:
            return 0

    def _scratch(self, stage: Stage, digest: str) -> Path:
        return self.home / "scratch" / stage.name / digest

    def _known(self, name: str) -> Stage:
        return stage_named(name, self._stages, self._all)
