"""The trained weights as editors: teacher, student and autoencoder behind `EditingModels`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kontext.evaluate.pixels import Images
from kontext.models.autoencoder import Autoencoder, load_autoencoder
from kontext.models.precision import autocast
from kontext.models.text import TextEncoder, load_text_encoder
from kontext.models.transformer import FluxTransformer, load_transformer
from kontext.sample.canvas import to_tensor, to_uint8
from kontext.sample.detail import give_back
from kontext.sample.euler import Guidance, Prompt, noise, sample
from kontext.stage import StageContext
from schemas.sections.evaluation import EvaluateConfig
from schemas.sections.training import DistillConfig, EncodeConfig

BATCH = 50
Progress = Callable[[int], None]


def sample_index(pair_id: str) -> int:
    """The noise stream of an item: by its id, so that batching does not matter."""
    return int(pair_id[:12], 16)


@dataclass
class TrainedModels:
    """Autoencoder, text encoder, teacher and student with the settings they are scored with."""

    autoencoder: Autoencoder
    text: TextEncoder
    teacher: FluxTransformer
    student: FluxTransformer
    text_length: int
    teacher_steps: int
    teacher_guidance: float
    student_steps: int
    keep_detail: bool
    seed: int
    device: torch.device
    progress: Progress | None = None  # told after every batch how many items it had

    @classmethod
    def load(cls, ctx: StageContext, config: EvaluateConfig) -> TrainedModels:
        """Load from the artifacts of train-autoencoder, encode, finetune and distill.

        Text length and the student's steps are those that these artifacts were made with.

        Raises:
            WeightsError: a file does not fit its configuration.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            autoencoder=load_autoencoder(ctx.inputs["train-autoencoder"], device),
            text=load_text_encoder(device=device),
            teacher=load_transformer(ctx.inputs["finetune"], "flow.safetensors", device),
            student=load_transformer(ctx.inputs["distill"], "student.safetensors", device),
            text_length=ctx.upstream("encode", EncodeConfig).text_length,
            teacher_steps=config.teacher_steps,
            teacher_guidance=config.teacher_guidance,
            student_steps=ctx.upstream("distill", DistillConfig).student_steps,
            keep_detail=config.keep_detail,
            seed=config.seed,
            device=device,
        )

    def round_trip(self, images: Images) -> Images:
        """Through the autoencoder's mode and back."""
        return self._batched(len(images), lambda rows: self.decode(self.encode(images[rows])))

    def ceiling(self, target: Images, context: Images) -> Images:
        """The target through the autoencoder, finished as an edit of `context` is."""

        def one(rows: slice) -> Images:
            return self.finish(self.encode(target[rows]), context[rows], self.encode(context[rows]))

        return self._batched(len(target), one)

    def student_edit(self, context: Images, instructions: list[str], ids: list[str]) -> Images:
        """Edit in the student's few steps, without guidance."""
        return self._edit(self.student, context, instructions, ids, self.student_steps, 1.0)

    def student_decoded(self, context: Images, instructions: list[str], ids: list[str]) -> Images:
        """The student's edit as the autoencoder decodes it."""
        plain = replace(self, keep_detail=False)
        return plain.student_edit(context, instructions, ids)

    def teacher_edit(self, context: Images, instructions: list[str], ids: list[str]) -> Images:
        """Edit with the teacher at the recipe's steps and guidance."""
        steps, guidance = self.teacher_steps, self.teacher_guidance
        return self._edit(self.teacher, context, instructions, ids, steps, guidance)

    def teacher_draw(self, side: tuple[int, int], captions: list[str], ids: list[str]) -> Images:
        """Text-to-image with the teacher: no context tokens. `side` is (height, width)."""

        def one(rows: slice) -> Images:
            latents = self.denoise(
                self.teacher,
                [],
                self.prompt(captions[rows]),
                self.start(ids[rows], side),
                self.teacher_steps,
                self.teacher_guidance,
            )
            return self.decode(latents)

        return self._batched(len(ids), one)

    @torch.no_grad()
    def encode(self, images: Images) -> Tensor:
        """uint8 [B, H, W, 3] -> normalised latents [B, C, h, w] float32."""
        with autocast(self.device):
            return self.autoencoder.encode(to_tensor(list(images)).to(self.device)).float()

    def decode(self, latents: Tensor) -> Images:
        """Latents [B, C, h, w] -> uint8 [B, H, W, 3]."""
        return to_uint8(self._pixels(latents))

    def finish(self, latents: Tensor, context: Images, encoded: Tensor) -> Images:
        """Latents of edits of `context`, whose own latents are `encoded` -> uint8 [B, H, W, 3]."""
        edited = self._pixels(latents)
        if self.keep_detail:
            original = to_tensor(list(context)).to(edited)
            edited = give_back(edited, self._pixels(encoded), original)
        return to_uint8(edited)

    def prompt(self, texts: Sequence[str]) -> Prompt:
        """Encode texts at the length the model was trained with."""
        tokens, _, pooled = self.text.encode(texts, self.text_length)
        return Prompt(tokens, pooled)

    def denoise(
        self,
        model: FluxTransformer,
        contexts: list[Tensor],
        prompt: Prompt,
        start: Tensor,
        steps: int,
        guidance: float,
    ) -> Tensor:
        """Sample latents like `start`, given encoded text and context latents."""
        embedded = guidance if model.shape.guidance_embed else None
        scales = Guidance(text=1.0 if embedded is not None else guidance, embedded=embedded)
        empty = self.prompt([""]) if scales.text != 1.0 else None
        with autocast(self.device):
            return sample(model, start, prompt, contexts, steps=steps, guidance=scales, empty=empty)

    def start(self, ids: Sequence[str], side: tuple[int, int]) -> Tensor:
        """Noise [B, C, h, w] for items, `side` = (height, width) in pixels."""
        factor = self.autoencoder.factor
        shape = (self.autoencoder.shape.z_channels, side[0] // factor, side[1] // factor)
        return noise(self.seed, [sample_index(i) for i in ids], shape).to(self.device)

    def _edit(
        self,
        model: FluxTransformer,
        context: Images,
        texts: list[str],
        ids: list[str],
        steps: int,
        guidance: float,
    ) -> Images:
        def one(rows: slice) -> Images:
            encoded = self.encode(context[rows])
            latents = self.denoise(
                model,
                [encoded],
                self.prompt(texts[rows]),
                self.start(ids[rows], (context.shape[1], context.shape[2])),
                steps,
                guidance,
            )
            return self.finish(latents, context[rows], encoded)

        return self._batched(len(ids), one)

    @torch.no_grad()
    def _pixels(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, H, W] in -1..1, float32."""
        with autocast(self.device):
            return self.autoencoder.decode(latents).float().clamp(-1, 1)

    def _batched(self, n: int, one: Callable[[slice], Images]) -> Images:
        made = []
        for low in range(0, n, BATCH):
            rows = slice(low, min(low + BATCH, n))
            made.append(one(rows))
            if self.progress is not None:
                self.progress(rows.stop - rows.start)
        return np.concatenate(made)
