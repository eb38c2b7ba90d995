"""What is compared: evaluations, one or several trainings (seeds) of a recipe a side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from kontext.errors import ArtifactError
from kontext.evaluate.versions import MODELS
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore

ITEMS = "items.parquet"
_LETTERS = "ABCDEFGH"
_TRAINED = ("train-autoencoder", "finetune", "distill")  # stages whose seeds a training has
Key = tuple[str, str]  # pair and editor
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One evaluation. `name` is what the user called it."""

    name: str
    made: Artifact
    training: Mapping[str, Mapping[str, Any]]  # settings of the stages that train, by stage

    @cached_property
    def table(self) -> pa.Table:
        """Its evaluated items."""
        return self.made.table(ITEMS)

    @cached_property
    def rows(self) -> dict[Key, Row]:
        """The items of student and teacher."""
        wanted = (row for row in self.table.to_pylist() if row["editor"] in MODELS)
        return {(row["pair_id"], row["editor"]): row for row in wanted}

    @property
    def seeds(self) -> dict[str, int]:
        """Of its training, by stage."""
        return {name: own["seed"] for name, own in self.training.items() if "seed" in own}

    @property
    def trained(self) -> tuple[str, ...]:
        """What was trained: evaluations of the same weights have the same."""
        inputs = self.made.manifest.inputs
        return tuple(inputs.get(stage, "") for stage in _TRAINED)

    @property
    def ref(self) -> str:
        """`evaluate/<digest>`."""
        return f"{self.made.stage}/{self.made.digest}"

    @property
    def noise_seed(self) -> int:
        """The seed of the items' noise; each item has its own stream of it."""
        return int(self.made.manifest.config.get("seed", 0))

    @property
    def measure(self) -> tuple[Any, Any]:
        """What success means in it."""
        own = self.made.manifest
        return own.metrics.get("success_measure"), own.config.get("mask_threshold")


@dataclass(frozen=True)
class Side:
    """One of the compared: the trainings of one recipe."""

    letter: str
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """As the user said it."""
        return ", ".join(run.name for run in self.runs)

    @property
    def note(self) -> str:
        """What differs between its runs beside the seeds; empty if nothing does."""
        first, *others = (_settings(run) for run in self.runs)
        names = {n for own in others for n in {*first, *own} if first.get(n) != own.get(n)}
        return f"The runs of {self.letter} differ in {', '.join(sorted(names))}." if names else ""

    @property
    def pairs(self) -> set[str]:
        """The items that all of its runs have."""
        return set.intersection(*({pair for pair, _ in run.rows} for run in self.runs))


def opened(store: ArtifactStore, refs: Sequence[str]) -> list[Side]:
    """The sides of references: evaluations or published models; a comma joins seeds of a recipe.

    Raises:
        ArtifactError: fewer than two or too many, a reference to neither, an evaluation twice, or
            success means another thing in one than in another.
    """
    if not 2 <= len(refs) <= len(_LETTERS):
        raise ArtifactError(f"2 to {len(_LETTERS)} evaluations are compared, not {len(refs)}")
    sides = [
        Side(letter, tuple(_run(store, name.strip()) for name in ref.split(",")))
        for letter, ref in zip(_LETTERS, refs, strict=False)
    ]
    runs = [run for side in sides for run in side.runs]
    if len({run.ref for run in runs}) < len(runs):
        raise ArtifactError("an evaluation is compared with itself: name each of them once")
    for side in sides:
        if len({run.trained for run in side.runs}) < len(side.runs) > 1:
            raise ArtifactError(f"{side.name}: the same training, evaluated twice, is no two seeds")
    counts = {len(side.runs) for side in sides} - {1}
    if len(counts) > 1:
        raise ArtifactError("sides have the same number of seeds, or one")
    first = runs[0]
    for run in runs[1:]:
        if run.measure != first.measure:
            raise ArtifactError(
                f"{first.ref} and {run.ref} cannot be compared: success is by "
                f"{_measure(first)} in one and by {_measure(run)} in the other; evaluate one anew"
            )
    return sides


def _measure(run: Run) -> str:
    measure, threshold = run.measure
    return f"'{measure or 'an unnamed measure'}' with mask_threshold {threshold}"


def _run(store: ArtifactStore, name: str) -> Run:
    found = store.show(name)
    if found.stage == "publish" and "evaluate" in found.manifest.inputs:
        found = store.open("evaluate", found.manifest.inputs["evaluate"])
    if found.stage != "evaluate":
        raise ArtifactError(
            f"'{name}' is an artifact of {found.stage}: give evaluations or published models"
        )
    if ITEMS not in found.names():
        raise ArtifactError(f"'{name}' has no {ITEMS}: evaluate it anew")
    return Run(name, found, _training(store, found))


def _training(store: ArtifactStore, made: Artifact) -> dict[str, Mapping[str, Any]]:
    """Of the stages whose artifacts are there."""
    found: dict[str, Mapping[str, Any]] = {}
    for stage in _TRAINED:
        digest = made.manifest.inputs.get(stage)
        manifest = store.manifest(stage, digest) if digest else None
        if manifest is not None:
            found[stage] = manifest.config
    return found


def _settings(run: Run) -> dict[str, Any]:
    """Settings of training, without seeds."""
    every = {f"{stage}.{k}": v for stage, own in run.training.items() for k, v in own.items()}
    return {name: value for name, value in every.items() if not name.endswith(".seed")}
