"""A store whose data stages are done, by hand, and a recipe whose training takes seconds."""

from collections.abc import Callable
from pathlib import Path

from kontext.engine.graph import of_run
from kontext.engine.run import Engine
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact, ArtifactWriter
from schemas.manifest import Manifest, artifact_digest
from schemas.recipes import Recipe, load_recipe
from tests.stages.finished_run import SIDE, SPLIT_NAMES, make_data
from tests.stages.stage_harness import Harness

# every training phase for real, a handful of steps each
CHANGES = (
    f"ingest.resolution={SIDE}",
    "ingest.canaries=3",
    'autoencoder.shape={"ch": 8, "norm_groups": 4}',
    "autoencoder.steps=3",
    "autoencoder.batch=4",
    "autoencoder.warmup=1",
    "autoencoder.perceptual_start=1",
    "autoencoder.disc_start=2",
    "autoencoder.checkpoint_every=1",
    "encode.shard_rows=64",
    "finetune.t2i_steps=1",
    "finetune.joint_steps=2",
    "finetune.batch=4",
    "finetune.warmup=1",
    "finetune.checkpoint_every=1",
    'finetune.pictures={"steps": 1, "batch": 4}',
    "distill.teacher_edits=8",
    "distill.teacher_steps=2",
    "distill.steps=2",
    "distill.warmup_steps=1",
    "distill.batch=4",
    "distill.checkpoint_every=1",
    "distill.lr_student=1e-4",
    "evaluate.items_per_category=4",
    "evaluate.teacher_steps=2",
)
OPTIONS = [word for change in CHANGES for word in ("--set", change)]


def toy_recipe() -> Recipe:
    """Recipe `ci` with `CHANGES`."""
    return load_recipe("ci", CHANGES)


class DataStages(Harness):
    """Hand-made artifacts with the sections and inputs that the engine would have recorded."""

    def make(self, stage: str, fill: Callable[[ArtifactWriter], None]) -> Artifact:
        """An artifact with hand-made files, used as input of later stages."""
        section = getattr(self.recipe, STAGES[stage].section).model_dump(mode="json")
        sources = of_run(STAGES, self.inputs)[stage].inputs
        inputs = {source: self.inputs[source].digest for source in sources}
        writer = self.store.writer(stage, artifact_digest(stage, "by hand", section, inputs))
        fill(writer)
        writer.commit(
            Manifest(
                stage=stage,
                digest=writer.digest,
                code_digest="by hand",
                config=section,
                inputs=inputs,
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
        )
        self.inputs[stage] = self.store.open(stage, writer.digest)
        return self.inputs[stage]


def data_store(folder: Path) -> DataStages:
    """The stages up to `index`, done in `folder`/store."""
    harness = DataStages(folder, toy_recipe())
    make_data(harness, SPLIT_NAMES)
    return harness


def engine_over(harness: DataStages) -> Engine:
    """The engine of the machine where the data stages are done."""
    pins = {stage: artifact.digest for stage, artifact in harness.inputs.items()}
    home = harness.folder / "home"
    return Engine(
        harness.recipe,
        harness.objects.url,
        home / "catalog.sqlite",
        home,
        stages=STAGES,
        pins=pins,
    )
