"""The trained weights as editors: what `kontext edit` runs, over the items of the bench."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from kontext.data.buckets import Size
from kontext.edit.edit_model import EditModel
from kontext.edit.request import Edit, Options
from kontext.edit.sizes import size_rule
from kontext.edit.weights.folder import LoadedModel, ModelSettings
from kontext.engine.stage import StageContext
from kontext.evaluate.pixels import Images, alike, as_images, in_order, taken
from kontext.models.autoencoder.network import Autoencoder, load_autoencoder
from kontext.models.flux.transformer import FluxTransformer, load_transformer
from kontext.models.precision import compute_dtype
from kontext.models.text.cache import later_text_encoder
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.record.ledger import Ledger
from kontext.train.record.numerics import encoded_ledger
from kontext.train.record.transformer_ledger import transformer_ledger
from kontext.train.start.teacher import FLOW, teacher_of
from kontext.train.start.text import given_text
from schemas.sections.data import IngestConfig
from schemas.sections.evaluation import EvaluateConfig
from schemas.sections.training import DistillConfig, EncodeConfig

BATCH, _PIXELS = 50, 2**22  # pictures, and their pixels, that are edited together at most
Progress = Callable[[int], None]


def noise_stream(pair_id: str) -> int:
    """The noise stream of an item, by its id (hexadecimal): independent of the batch it is in."""
    return int(pair_id[:12], 16)


def model_settings(
    ctx: StageContext, scored: EvaluateConfig, text_digest: str
) -> tuple[ModelSettings, ModelSettings]:
    """Settings of student and teacher: for the bench, and in the published model folders.

    Without distillation the teacher is the model, and takes the student's place.

    Args:
        ctx: of a stage that has ingest and encode among its inputs, distill where the recipe has
            it, and takes given texts.
        scored: the section of evaluate.
        text_digest: of the text encoder.
    """
    ingested = ctx.upstream("ingest", IngestConfig)
    model = ModelSettings(
        name="teacher",
        text_encoder=given_text(ctx),
        text_digest=text_digest,
        text_length=ctx.upstream("encode", EncodeConfig).text_length,
        resolution=ingested.resolution,
        sizes=size_rule(ingested),
        steps=scored.teacher_steps,
        guidance=scored.teacher_guidance,
    )
    if "distill" not in ctx.inputs:
        return model, model
    steps = ctx.upstream("distill", DistillConfig).student_steps
    return model.model_copy(update={"name": "student", "steps": steps, "guidance": 1.0}), model


def model_ledger(
    ctx: StageContext,
    transformer: FluxTransformer,
    autoencoder: Autoencoder,
    settings: ModelSettings,
    sizes: Iterable[Size],
) -> Ledger:
    """The numerics ledger of a model that edits images of these sizes (width, height) in pixels."""
    device = next(autoencoder.parameters()).device
    products, factor = compute_dtype("auto", device), 2 * autoencoder.factor
    tokens = {(width // factor) * (height // factor) for width, height in sizes}
    return {
        **encoded_ledger(ctx, autoencoder, products, settings.text_digest, settings.text_length),
        **transformer_ledger(transformer, tokens, products, device),
    }


@dataclass
class TrainedModels:
    """The student and the teacher, which share an autoencoder. Images are uint8 [N, H, W, 3], or
    an array of N pictures of several sizes.

    `ids` seed each item's noise, so batches do not matter. Where the recipe makes no student, the
    teacher is both.
    """

    student: EditModel
    teacher: EditModel
    seed: int
    progress: Progress | None = None  # called after every batch with its number of items

    @classmethod
    def load(cls, ctx: StageContext, config: EvaluateConfig) -> TrainedModels:
        """Load from the artifacts of train-autoencoder, distill and the teacher's.

        Raises:
            WeightsError: a file does not fit its configuration.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        text = later_text_encoder(given_text(ctx), device)
        autoencoder = load_autoencoder(ctx.inputs["train-autoencoder"], device)
        fast, slow = model_settings(ctx, config, text.digest)

        def editor(made: Artifact, name: str, settings: ModelSettings) -> EditModel:
            model = load_transformer(made, name, device)
            return EditModel(LoadedModel(model, autoencoder, settings, made.digest), text, device)

        teacher = editor(teacher_of(ctx.inputs), FLOW, slow)
        student = teacher
        if "distill" in ctx.inputs:
            student = editor(ctx.inputs["distill"], "student.safetensors", fast)
        return cls(student, teacher, config.seed)

    @property
    def few_steps(self) -> int:
        """The student's sampling steps."""
        return self.student.settings.steps

    def round_trip(self, images: Images) -> Images:
        """Through the autoencoder and back."""
        groups = alike(images)
        made = [self._decoded(taken(images, rows)) for rows in groups]
        return made[0] if len(groups) == 1 else as_images(in_order(groups, made))

    def _decoded(self, images: Images) -> Images:
        codec = self.student.codec
        return self._batched(len(images), lambda rows: codec.decode(codec.encode(images[rows])))

    def edit_of(self, images: Sequence[Images], instruction: str, pair_id: str) -> Edit:
        """An item's edit: `kontext edit` with the bench's seed, but for the stream of its noise."""
        return Edit(images, instruction, self.seed, stream=noise_stream(pair_id))

    def edit(
        self,
        editor: EditModel,
        contexts: Sequence[Sequence[Images]],
        texts: Sequence[str],
        ids: Sequence[str],
        size: Size | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Images:
        """Edit with the student or the teacher.

        Args:
            contexts: each edit's images; none where words alone are drawn.
            size: (width, height) in pixels; None: the context's.
            steps, guidance: of the sampling, where they are not the editor's own.
        """
        edits = [self.edit_of(*item) for item in zip(contexts, texts, ids, strict=True)]
        options = Options(steps, guidance, any_text=True)
        return self._batched(
            len(edits),
            lambda rows: editor.edit_many(edits[rows], options, batch=self.batch, size=size),
        )

    @property
    def batch(self) -> int:
        """Pictures that are edited together: fewer large ones."""
        return max(1, min(BATCH, _PIXELS // self.student.settings.resolution**2))

    def _batched(self, n: int, one: Callable[[slice], Sequence[Images] | Images]) -> Images:
        made: list[Images] = []
        for low in range(0, n, self.batch):
            rows = slice(low, min(low + self.batch, n))
            made.extend(one(rows))
            if self.progress is not None:
                self.progress(rows.stop - rows.start)
        return as_images(made)
