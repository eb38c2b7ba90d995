"""Runs single stages against a real local artifact store, with hand-made inputs."""

import importlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from kontext.engine.chunks import map_chunks
from kontext.engine.stage import Reporter, StageContext, section_in, weights_in
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore, ArtifactWriter
from kontext.store.objects import open_store
from kontext.train.start.fit import placed
from schemas.manifest import Manifest
from schemas.recipes import Recipe


class Recorder(Reporter):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("kontext.test"))
        self.tables: dict[str, list[Mapping[str, Any]]] = {}
        self.texts: dict[str, str] = {}
        self.images: dict[str, bytes] = {}

    def progress(self, done: float, total: float, message: str = "") -> None:
        assert done <= total

    def markdown(self, key: str, text: str) -> None:
        self.texts[key] = text

    def table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.tables[key] = list(rows)

    def image(self, key: str, png: bytes, caption: str) -> None:
        assert len(png) < 1_000_000
        self.images[key] = png


class Heard(logging.LoggerAdapter[logging.Logger]):
    """A log that keeps its lines, of all levels."""

    def __init__(self) -> None:
        super().__init__(logging.getLogger("kontext.test"), {})
        self.lines: list[str] = []

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        record = logging.LogRecord("", level, "", 0, msg, args, None)  # type: ignore[arg-type]
        self.lines.append(record.getMessage())
        super().log(level, msg, *args, **kwargs)


@contextmanager
def timed_briefly() -> Iterator[None]:
    """Evaluations time each part of an edit twice, rather than ten times and for a second.

    tests/evaluate/test_latency.py looks at how often; seven parts took a third of an evaluation.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RUNS", 2), ("MOST", 2), ("WARM_UP", 1)):
            patch.setattr(f"kontext.evaluate.latency.{name}", value)
        yield


class Harness:
    """One store in a folder. `run` makes a stage's artifact, `make` one by hand."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.recipe = recipe
        self.objects = open_store(f"file://{folder}/store")
        self.store = ArtifactStore(self.objects, folder / "cache")
        self.inputs: dict[str, Artifact] = {}
        self.before: list[Artifact] = []  # what a stage with `continues` goes on from
        self.report = Recorder()
        self.log = Heard()

    def elsewhere(self, folder: Path) -> "Harness":
        """The same inputs, with a folder and a store of its own for what is made of them."""
        other = Harness(folder, self.recipe)
        other.inputs = dict(self.inputs)
        return other

    def make(self, stage: str, fill: Callable[[ArtifactWriter], None]) -> Artifact:
        """An artifact with hand-made files, used as input of later stages."""
        writer = self.store.writer(stage, "hand-made")
        fill(writer)
        return self._commit(stage, writer)

    def run(self, stage: str, briefly: bool = True) -> Artifact:
        """Run a stage of the registry for real; its edits are timed briefly, or as users' are."""
        writer = self.store.writer(stage, f"digest-of-{stage}")
        module = importlib.import_module(STAGES[stage].module)
        with timed_briefly() if stage == "evaluate" and briefly else nullcontext():
            module.run(self.context(stage, writer))
        return self._commit(stage, writer)

    def copied(self, folder: Path) -> "Harness":
        """The same in another folder; what either makes from now on is its own."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        other = Harness(folder, self.recipe)
        other.inputs = {
            name: other.store.open(name, had.digest) for name, had in self.inputs.items()
        }
        return other

    def context(self, stage: str, writer: ArtifactWriter) -> StageContext:
        """What a stage is handed."""
        digest = writer.digest

        def chunk_map(work: Any, chunks: Any, processes: int = 1, **more: Any) -> Any:
            prefix = f"runs/{stage}/{digest}/work"
            return map_chunks(work, chunks, processes, objects=self.objects, prefix=prefix, **more)

        scratch = self.folder / "scratch" / stage
        scratch.mkdir(parents=True, exist_ok=True)
        return StageContext(
            config=section_in(self.recipe, STAGES[stage]),
            digest=digest,
            inputs=self.inputs,
            before=self.before,
            output=writer,
            map_chunks=chunk_map,
            scratch=scratch,
            home=self.home,
            weights=weights_in(placed(self.recipe.weights, self.store), STAGES[stage]),
            store_url=self.objects.url,
            report=self.report,
            log=cast(logging.Logger, self.log),
        )

    def _commit(self, stage: str, writer: ArtifactWriter) -> Artifact:
        manifest = Manifest(
            stage=stage,
            digest=writer.digest,
            code_digest="",
            config=section_in(self.recipe, STAGES[stage]).model_dump(mode="json"),
            inputs={},
            files=list(writer.files.values()),
            metrics=writer.metrics,
            notes=writer.notes,
            recipe=self.recipe.name,
            created_at="2026-01-01T00:00:00Z",
            seconds=0,
            git_commit="",
            packages={},
            kernels=writer.kernels,
        )
        writer.commit(manifest)
        self.inputs[stage] = self.store.open(stage, writer.digest)
        return self.inputs[stage]


def rows_table(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of `schema`; columns a row does not name get a value of the right kind."""
    blank = {field.name: _blank(field.type) for field in schema}
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema)


def _blank(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return []
    if pa.types.is_fixed_size_binary(kind):
        return bytes(kind.byte_width)
    if pa.types.is_binary(kind):
        return b""
    return "" if pa.types.is_string(kind) else False if pa.types.is_boolean(kind) else 0
