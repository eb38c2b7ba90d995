"""The engine's contract: what a stage is, is handed and reports, and what is said of stages.

A stage is a pure function of its recipe section and its input artifacts. It reads `ctx.inputs`,
writes `ctx.output` and tells people what it did through `ctx.report`. It never sees the recipe:
an earlier stage's settings are in that stage's artifact, and `ctx.upstream` reads them there.
A stage is done when its manifest exists. Nothing here knows which orchestrator, if any, is
running it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias

from pydantic import ValidationError
from typing_extensions import TypeVar

from kontext.errors import ArtifactError
from schemas.manifest import Manifest
from schemas.sections.base import Section
from schemas.sections.weights import WeightsConfig

if TYPE_CHECKING:  # a recipe looks into stages' files, and needs no more than pydantic
    import pyarrow as pa

    from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter

CHANGES_RESULTS = False  # hands things over

ADDED = ("attempt", "before", "external", "weights")  # by the engine to the section in a manifest

SectionT = TypeVar("SectionT", bound=Section)
ConfigT = TypeVar("ConfigT", bound=Section, default=Section, covariant=True)


class Reporter:
    """Where a stage shows people what it did. This one logs; an orchestrator's has pages for it."""

    def __init__(self, log: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._log = log
        self._shown = -1
        self.earlier_run = ""  # the orchestrator's run that left unfinished work, set by the engine
        self.continued_from = ""  # what of that work is gone on with; empty for none

    def continued(self, what: str) -> None:
        """Say that work of an earlier attempt is gone on with, e.g. `step 20 of 66`."""
        self.continued_from = what
        self._log.info("goes on from %s", what)

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Advance the stage's one progress bar; logged at most every 10 percent."""
        tenth = int(10 * done / total) if total else 10
        if tenth != self._shown:
            self._shown = tenth
            self._log.info("%3d%% %s", round(100 * done / total) if total else 100, message)

    def markdown(self, key: str, text: str) -> None:
        """Publish a markdown note under a stable key."""
        self._log.debug("%s\n%s", key, text)

    def table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Publish a small table (at most a few hundred rows)."""
        self._log.debug("%s: %d rows", key, len(rows))

    def image(self, key: str, png: bytes, caption: str) -> None:
        """Publish a picture, below 1 MB."""
        self._log.debug("%s: %d bytes (%s)", key, len(png), caption)


ChunkResult: TypeAlias = "Mapping[str, pa.Table]"


@dataclass(frozen=True)
class Needs:
    """What one chunk takes of a machine, where a cluster has to know it."""

    processors: int = 1
    gpus: float = 0.0


NOTHING_SPECIAL = Needs()


class ChunkMap(Protocol):
    """Runs `work(chunk)` for every chunk of a plan: `chunks.map_chunks`, with a store."""

    def __call__(
        self,
        work: Callable[[Any], ChunkResult],
        chunks: Sequence[Any],
        processes: int = 1,
        *,
        needs: Needs = NOTHING_SPECIAL,
    ) -> list[ChunkResult]:
        """Results in plan order. `work` is a function of a module, and chunks can be pickled."""


@dataclass
class StageContext(Generic[ConfigT]):
    """Everything a stage is handed."""

    config: ConfigT  # the stage's own recipe section
    digest: str  # of the artifact being made
    inputs: Mapping[str, Artifact]
    output: ArtifactWriter
    map_chunks: ChunkMap
    scratch: Path  # survives a crash and belongs to this digest: checkpoints live here
    home: Path  # KONTEXT_HOME
    store_url: str
    report: Reporter
    # given weights that the stage takes: absolute paths, or artifacts as stage/digest
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    catalog: str = ""  # where the DuckLake metadata is; only `index` needs it
    # that a stage with `continues` goes on from, usually one; or the one that `compares` found
    before: Sequence[Artifact] = ()
    # the stage's finished artifacts that the same code made, newest first: what they hold of an
    # item may be taken instead of made again, where the result is the same bytes
    earlier: Callable[[], Sequence[Artifact]] = lambda: ()
    # whether the time is up: a long stage then saves what it has and raises Stopped
    stop: Callable[[], bool] = lambda: False
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("kontext"))

    def note(self, text: str) -> None:
        """Log a fallback or limit and record it in the manifest."""
        self.log.warning(text)
        self.output.note(text)

    def upstream(self, stage: str, kind: type[SectionT]) -> SectionT:
        """The recipe section that the input artifact of `stage` was made with.

        Not what today's recipe says: an artifact may have been chosen as a version, and then the
        two differ. A field that the artifact does not have (it is newer) takes its default.

        Raises ArtifactError: `stage` is no input of this stage, or its section is not a `kind`.
        """
        if stage not in self.inputs:
            raise ArtifactError(f"'{stage}' is no input here (inputs: {', '.join(self.inputs)})")
        return section_of(self.inputs[stage].manifest, kind)


def section_of(manifest: Manifest, kind: type[SectionT]) -> SectionT:
    """The recipe section in a manifest. Raises ArtifactError where it is not a `kind`.

    The manifest's config holds the engine's own entries too (`ADDED`).
    """
    known = {k: v for k, v in manifest.config.items() if k in kind.model_fields}
    try:
        return kind.model_validate(known)
    except ValidationError as error:
        ref = f"{manifest.stage}/{manifest.digest}"
        raise ArtifactError(f"the section of {ref} is no {kind.__name__}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the graph, as its own file declares it (see `kontext.engine.graph`)."""

    name: str
    section: str = ""  # of the recipe; empty: the stage has no settings
    inputs: tuple[str, ...] = ()  # stage names; those that a recipe has not are left out
    when: str = ""  # field of its section: a recipe in which it is empty does not have the stage
    module: str = ""  # with `run(ctx)`, imported only when the stage runs; filled in by discovery
    pool: str = "cpu"  # work pool: cpu or gpu
    external: str = ""  # "module:function": (section, home) -> digest of files it points to
    weights: tuple[str, ...] = ()  # fields of the recipe's `weights` that it takes
    plugins: str = ""  # "module:function": section -> modules of the plug-ins that it names
    tag: str = ""  # of the artifact, from its own and its inputs' sections: "a@{shard.dataset}"
    # field of its section: an artifact goes on from the earlier ones in which it is the same; or of
    # a later stage's, "shard.dataset": from what that stage's last one of that name was made of
    continues: str = ""
    # a later stage: an artifact is compared with the one that the tagged artifact of that stage was
    # made of, where there is a tagged one
    compares: str = ""
    model: bool = False  # its artifact is a model: it says nothing of single pictures or texts
    renew: str = ""  # function of the file, called with `run`'s context where it is reused
    summary: str = ""  # one line for people
    # metric -> its words with a place for the value, from the docstring of the stage's file
    figures: Mapping[str, str] = field(default_factory=dict, compare=False)


def section_in(recipe: Section, stage: Stage) -> Section:
    """The stage's own section of a recipe; an empty one where the stage has no settings."""
    section = getattr(recipe, stage.section) if stage.section else Section()
    assert isinstance(section, Section)
    return section


def weights_in(weights: WeightsConfig, stage: Stage) -> WeightsConfig:
    """The given weights that a stage takes; the others are left out."""
    return WeightsConfig(**{part: getattr(weights, part) for part in stage.weights})


@dataclass(frozen=True)
class StageOutcome:
    """What running a stage did."""

    stage: str
    digest: str
    reused: bool
    seconds: float  # spent now; the manifest has what the work took
    manifest: Manifest


@dataclass(frozen=True)
class StageStatus:
    """Whether a stage is done for this recipe."""

    stage: str
    digest: str
    state: str  # done, missing (never by this recipe) or stale (other code, settings or inputs)
    why: str


@dataclass(frozen=True)
class PlannedStage:
    """One line of a plan."""

    stage: str
    digest: str
    reused: bool
    why: str
