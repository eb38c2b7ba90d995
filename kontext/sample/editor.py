"""Edit images with a model folder: pixels and an instruction in, pixels out.

Safety and the decoding of files are the caller's: the editor takes arrays that were let through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kontext.errors import KontextError, WeightsError
from kontext.models import precision
from kontext.models.quantize import Scheme
from kontext.models.text import TextEncoder, load_text_encoder
from kontext.models.tiling import Tiling
from kontext.sample.canvas import (
    Frame,
    Image,
    Mask,
    check_image,
    check_mask,
    composite,
    fit,
    latent_mask,
    resize,
    to_tensor,
    to_uint8,
)
from kontext.sample.detail import give_back
from kontext.sample.euler import Guidance, Keep, OnStep, Prompt, noise, sample
from kontext.sample.folder import Files, LoadedModel, load_model_folder
from kontext.sample.provenance import Provenance
from kontext.sample.request import Edit, Options, Ready, join_keeps, join_prompts
from kontext.sample.sizes import TILE_ABOVE, Size, check_size, model_size

OnPhase = Callable[[str], None]
_PROMPTS_KEPT = 256
_log = logging.getLogger("kontext")


class Editor:
    """A loaded model with its text encoder."""

    def __init__(
        self,
        model: LoadedModel,
        text: TextEncoder,
        device: torch.device | str = "cpu",
        background: tuple[int, int, int] = (255, 255, 255),
        autocast: bool = True,
        tile_above: int = TILE_ABOVE,
    ) -> None:
        """Put the parts together.

        Args:
            background: fills the canvas beside images that are not square, for square models.
            autocast: compute in bf16 where the device is faster with it; False keeps the
                weights' own precision.
            tile_above: images of more pixels pass the autoencoder in tiles: a fraction of the
                memory, several times the computation, the same result up to rounding.

        Raises:
            WeightsError: the text encoder is not the one the model was trained with.
        """
        wanted = model.settings.text_digest
        if wanted and text.digest != wanted:
            raise WeightsError(
                f"model '{model.settings.name}' was trained with text encoder {wanted}, "
                f"this one is {text.digest}"
            )
        self.model, self.text, self.background = model, text, background
        self.settings, self.digest = model.settings, model.digest
        self.device = torch.device(device)
        self._autocast, self.tile_above = autocast, tile_above
        self._prompts: dict[str, Prompt] = {}

    @classmethod
    def load(
        cls,
        source: Path | Files,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        quantize: Scheme | None = None,
    ) -> Editor:
        """Load a model folder, or `model/` of a published artifact.

        Args:
            quantize: hold the transformer's weights as `int8` or `fp8`.

        Raises:
            WeightsError: see `load_model_folder` and `load_text_encoder`.
        """
        model = load_model_folder(source, device, dtype, quantize)
        return cls(model, load_text_encoder(model.settings.text_encoder, device), device)

    def edit(
        self,
        images: Sequence[Image],
        instruction: str,
        *,
        seed: int = 0,
        mask: Mask | None = None,
        size: Size | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Image:
        """Make one edit; `options` are those of `Options`. See `edit_many`."""
        edit = Edit(images, instruction, seed, mask)
        return self.edit_many([edit], Options(**options), size=size, on_step=on_step)[0]

    def edit_many(
        self,
        edits: Sequence[Edit],
        options: Options | None = None,
        *,
        batch: int = 1,
        size: Size | None = None,
        on_step: OnStep | None = None,
        on_phase: OnPhase | None = None,
    ) -> list[Image]:
        """Make several edits, in their order.

        Args:
            batch: how many edits of equal sizes share a forward pass. More is faster on a GPU; the
                noise of an edit stays its own, rounding may differ in the last bit.
            size: (width, height) of the results; None takes each first image's size for the model.
            on_step: called with (steps done, steps) over all edits.
            on_phase: called with "encoding", "sampling" and "decoding" as each begins.

        Returns:
            uint8 [H, W, 3] each. Square models give their native square, cut to the image's aspect.

        Raises:
            KontextError: empty or too long instruction, arrays that are not RGB images, a mask
                that does not fit, impossible size or options.
        """
        if batch < 1:
            raise KontextError("batch must be at least 1")
        options = options or Options()
        for edit in edits:  # the cheap checks of all edits come before the first one's work
            self.check_instruction(edit.instruction)
        self.steps(options)
        begin = on_phase or (lambda phase: None)
        known: dict[int, Tensor] = {}
        begin("encoding")
        ready = [self.prepare(edit, size, known) for edit in edits]
        made: list[Image] = []
        batches = [
            group[i : i + batch]
            for group in (list(g) for _, g in groupby(ready, lambda r: r.shapes))
            for i in range(0, len(group), batch)
        ]
        for number, jobs in enumerate(batches):

            def report(done: int, total: int, number: int = number) -> None:
                if on_step is not None:
                    on_step(number * total + done, len(batches) * total)

            begin("sampling")
            latents = self.denoise(jobs, options, report)
            begin("decoding")
            made += [
                self.finish(job, row[None], options, size is None)
                for job, row in zip(jobs, latents, strict=True)
            ]
        return made

    def prepare(self, edit: Edit, size: Size | None, known: dict[int, Tensor]) -> Ready:
        """Bring an edit's images to the model's sizes and encode them.

        Args:
            known: latents by the identity of the array they come from, filled on the way, so that
                several edits of one image encode it once.
        """
        contexts, target = [], self._default()
        first_frame: Frame | None = None
        first_canvas: Image | None = None
        stretch = self.settings.sizes == "kontext"
        for number, image in enumerate(edit.images):
            height, width = check_image(image).shape[:2]
            own = model_size(self.settings.sizes, self.settings.resolution, width, height)
            canvas, frame = fit(image, own, self.background, stretch)
            if id(image) not in known:
                known[id(image)] = self.encode(canvas)
            contexts.append(known[id(image)])
            if number == 0:
                target, first_frame, first_canvas = own, frame, canvas
        keep = None
        if edit.mask is not None:
            if not edit.images or size not in (None, target):
                raise KontextError("a mask needs an image, and a result of that image's size")
            mask = check_mask(edit.mask, edit.images[0])
            factor = self.model.autoencoder.factor
            keep = Keep(contexts[0], latent_mask(mask, target, stretch, factor))
        size = check_size(size or target)
        return Ready(edit, tuple(contexts), size, first_frame, first_canvas, keep)

    def denoise(
        self, jobs: Sequence[Ready], options: Options, on_step: OnStep | None = None
    ) -> Tensor:
        """Sample the latents [B, C, h, w] of edits with equal shapes, float32."""
        transformer, factor = self.model.transformer, self.model.autoencoder.factor
        width, height = jobs[0].target
        shape = (transformer.shape.in_channels // 4, height // factor, width // factor)
        guidance = self.guidance(options)
        plain = guidance.text == 1.0 and guidance.image == 1.0
        keeps = [job.keep for job in jobs if job.keep is not None]
        with self._precision():
            return sample(
                transformer,
                torch.cat([noise(job.edit.seed, [0], shape) for job in jobs]),
                join_prompts([self._prompt(job.edit.instruction) for job in jobs]),
                [torch.cat(rows) for rows in zip(*(job.contexts for job in jobs), strict=True)],
                steps=self.steps(options),
                guidance=guidance,
                empty=None if plain else self._prompt(""),
                keep=None if not keeps else join_keeps(keeps),
                on_step=on_step,
            )

    def finish(self, job: Ready, latents: Tensor, options: Options, cut: bool = True) -> Image:
        """Pixels of sampled latents [1, C, h, w]: cut to the image's frame, or put in its mask."""
        pixels = self.decode(latents)
        if self.keeps_detail(options.keep_detail) and job.canvas is not None:
            context = to_tensor([job.canvas]).to(pixels)
            if context.shape == pixels.shape:
                pixels = give_back(pixels, self.decode(job.contexts[0]), context)
        out: Image = to_uint8(pixels)[0]
        if job.frame is None or not (cut or job.edit.mask is not None):
            return out
        inner = job.frame.crop(out)
        if job.edit.mask is None:
            return inner
        before = job.edit.images[0]
        return composite(before, resize(inner, before.shape[1::-1]), job.edit.mask)

    def keeps_detail(self, asked: bool | None = None) -> bool:
        """Whether edits get back what the autoencoder lost of what they left alone."""
        return self.settings.keep_detail if asked is None else asked

    @torch.no_grad()
    def encode(self, canvas: Image) -> Tensor:
        """Latents [1, C, h, w] of an image at a size the model takes, float32."""
        with self._precision():
            pixels = to_tensor([canvas]).to(self.device)
            height, width = canvas.shape[:2]
            return self.model.autoencoder.encode(pixels, self.tiling((width, height))).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels [1, 3, H, W] in -1..1, float32, of latents [1, C, h, w]."""
        with self._precision():
            factor = self.model.autoencoder.factor
            height, width = (side * factor for side in latents.shape[-2:])
            tiling = self.tiling((width, height))
            if tiling is not None:
                _log.info("%d x %d: decoded in tiles of %d pixels", width, height, tiling.side)
            pixels = self.model.autoencoder.decode(latents.to(self.device), tiling)
        return pixels.float().clamp(-1, 1)

    def tiling(self, size: Size) -> Tiling | None:
        """How the autoencoder cuts an image of `size` (width, height); None: not at all."""
        tiling = Tiling()
        small = size[0] * size[1] <= self.tile_above or max(size) <= tiling.side
        return None if small else tiling

    def tile(self, image: Image) -> int:
        """Side of the tiles in which an edit of `image` is coded, in pixels; 0: in one piece."""
        height, width = image.shape[:2]
        tiling = self.tiling(
            model_size(self.settings.sizes, self.settings.resolution, width, height)
        )
        return 0 if tiling is None else tiling.side

    def steps(self, options: Options) -> int:
        """How many steps an edit takes.

        Raises:
            KontextError: fewer than one, or guidance that this model cannot have.
        """
        steps = self.settings.steps if options.steps is None else options.steps
        if steps < 1:
            raise KontextError("steps must be at least 1")
        guidance = self.guidance(options)
        scales = (guidance.text, guidance.image, guidance.embedded or 0.0)
        if not all(0.0 <= scale < float("inf") for scale in scales):
            raise KontextError("guidance must be a number from 0 up")
        return steps

    def guidance(self, options: Options) -> Guidance:
        """The sampler's guidance for `options`, on this model."""
        own = self.settings.guidance if options.guidance is None else options.guidance
        if self.model.transformer.shape.guidance_embed:
            return Guidance(options.true_cfg, options.image_guidance, embedded=own)
        if options.true_cfg != 1.0:
            raise KontextError("true_cfg is for models with a guidance embedding: use guidance")
        return Guidance(own, options.image_guidance)

    def check_instruction(self, instruction: str) -> None:
        """Refuse what the model cannot read.

        Raises:
            KontextError: empty, or more tokens than the model was trained with: cutting it would
                silently drop a part of what was asked.
        """
        if not instruction.strip():
            raise KontextError("the instruction is empty")
        count, limit = self.text.count(instruction), self.settings.text_length
        if count > limit:
            raise KontextError(
                f"the instruction has {count} tokens and model '{self.settings.name}' reads "
                f"{limit}: make it shorter, or edit in several turns"
            )

    def provenance(
        self,
        instruction: str,
        seed: int,
        steps: int | None = None,
        guidance: float | None = None,
        **more: Any,
    ) -> Provenance:
        """What `save_image` writes into the file of such an edit; `more` are its other fields."""
        return Provenance(
            model=self.settings.name,
            digest=self.digest,
            instruction=instruction,
            seed=seed,
            steps=self.settings.steps if steps is None else steps,
            guidance=self.settings.guidance if guidance is None else guidance,
            quantize=self.model.quantize or "",
            **more,
        )

    def _default(self) -> Size:
        side = self.settings.resolution
        return model_size(self.settings.sizes, side, side, side)

    def _precision(self) -> AbstractContextManager[Any]:
        return precision.autocast(self.device) if self._autocast else nullcontext()

    def _prompt(self, text: str) -> Prompt:
        if text not in self._prompts:
            if len(self._prompts) >= _PROMPTS_KEPT:
                del self._prompts[next(iter(self._prompts))]
            tokens, mask, pooled = self.text.encode([text], self.settings.text_length)
            kept = mask if self.settings.text_mask else None
            self._prompts[text] = Prompt(tokens, pooled, kept)
        return self._prompts[text]
