"""The inputs of a stage's work: the same in the stage's own process and on every rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from kontext.engine.stage import StageContext
    from kontext.store.artifacts.artifact_store import Artifact


@dataclass(frozen=True)
class Inputs:
    """Input artifacts of a stage, and what the stage has made itself before.

    Attributes:
        artifacts: by the name of the stage that made them.
        store: URL of the store that holds them.
        cache: folder for downloaded files.
        scratch: the stage's own folder; ranks on this machine share it.
        files: files or folders that the stage made, by name, on a disk that all ranks see.
        model: starting weights, in the stage's own process. Ranks have none: theirs come from the
            checkpoint of step 0, so they build a model of the recipe's shape.
    """

    artifacts: Mapping[str, Artifact]
    store: str
    cache: Path
    scratch: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    model: nn.Module | None = None

    @classmethod
    def of(cls, ctx: StageContext) -> Inputs:
        """The inputs of a running stage."""
        return cls(ctx.inputs, ctx.store_url, ctx.home / "cache" / "blobs", ctx.scratch)

    def __getitem__(self, stage: str) -> Artifact:
        return self.artifacts[stage]

    def using(
        self, model: nn.Module | None = None, files: Mapping[str, Path] | None = None
    ) -> Inputs:
        """The same inputs with starting weights, or with more files."""
        return replace(self, model=model or self.model, files={**self.files, **(files or {})})

    def description(self) -> dict[str, Any]:
        """As JSON, without the model: what `opened` makes the inputs of a rank from."""
        return {
            "artifacts": {stage: each.digest for stage, each in self.artifacts.items()},
            "store": self.store,
            "cache": str(self.cache),
            "scratch": str(self.scratch),
            "files": {name: str(path) for name, path in self.files.items()},
        }

    @classmethod
    def opened(cls, description: Mapping[str, Any]) -> Inputs:
        """The inputs that `description` names, opened from the store.

        Raises:
            ArtifactError: an artifact is not there.
        """
        from kontext.store.artifacts.artifact_store import ArtifactStore
        from kontext.store.objects import open_store

        cache = Path(description["cache"])
        store = ArtifactStore(open_store(description["store"]), cache)
        return cls(
            artifacts={
                stage: store.open(stage, digest)
                for stage, digest in description["artifacts"].items()
            },
            store=description["store"],
            cache=cache,
            scratch=Path(description["scratch"]),
            files={name: Path(path) for name, path in description["files"].items()},
        )
