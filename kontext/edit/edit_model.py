"""A model with its text encoder: arrays and an instruction in, arrays out, and nothing is asked.

What stages, benches and previews draw with. People edit through `kontext.edit.editor`, which asks
the policy; a test sees that nothing outside of this package, of evaluation and of stages draws with
this one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor

from kontext.data.buckets import Size
from kontext.edit.canvas import (
    Frame,
    Image,
    bring_back,
    check_image,
    check_mask,
    composite,
    fit,
    inner_size,
    latent_mask,
)
from kontext.edit.codec import PictureCodec
from kontext.edit.euler import Guidance, Keep, OnStep, Prompt, noise, part_of, sample
from kontext.edit.provenance.record import Provenance
from kontext.edit.request import Edit, Options, PreparedEdit, asked
from kontext.edit.sizes import TILE_ABOVE, check_size, model_size, stretches
from kontext.edit.weights.folder import LoadedModel
from kontext.errors import KontextError, WeightsError
from kontext.models.text.encoders import TextEncoder
from kontext.parallel.attention import active_kernel

OnPhase = Callable[[str], None]
T = TypeVar("T")
_PROMPTS_KEPT = 256  # encoded texts


class EditModel:
    """A loaded model with its text encoder, unguarded. `codec` encodes and decodes pictures."""

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
            background: RGB, 0 to 255: fills the canvas beside images that are not square, for
                square models.
            autocast, tile_above: see `PictureCodec`.

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
        self.device, self.autocast = torch.device(device), autocast
        self.codec = PictureCodec(model.autoencoder, autocast, tile_above)
        self._prompts: dict[tuple[str, ...], Prompt] = {}

    def edit(
        self,
        images: Sequence[Image],
        instruction: str,
        *,
        size: Size | None = None,
        on_step: OnStep | None = None,
        **more: Any,
    ) -> Image:
        """Make one edit; `more` are fields of `Edit` and `Options`. See `edit_many`."""
        edit, options = asked(images, instruction, more)
        return self.edit_many([edit], options, size=size, on_step=on_step)[0]

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
            size: (width, height) at which the model makes the results; None takes each first
                image's size for the model.
            on_step: called with (steps done, steps) over all edits.
            on_phase: called with "encoding", "sampling" and "decoding" as each begins.

        Returns:
            uint8 [H, W, 3] each, of its first image's size: made at the model's and brought back
            (`canvas.bring_back`). With `size`, and without images: as the model makes it.

        Raises:
            KontextError: empty or too long instruction, arrays that are not RGB images, a mask
                that does not fit, impossible size or options.
        """
        if batch < 1:
            raise KontextError("batch must be at least 1")
        options = options or Options()
        if not options.any_text:
            for edit in edits:  # the cheap checks of all edits come before the first one's work
                self.check_instruction(edit.instruction)
        self.steps(options)
        begin = on_phase or (lambda phase: None)
        begin("encoding")
        ready = self.prepare(edits, size, batch)
        batches = list(batches_of(ready, batch, lambda job: job.shapes))
        made: list[Image] = []
        for number, jobs in enumerate(batches):
            begin("sampling")
            latents = self.denoise(jobs, options, part_of(on_step, number, len(batches)))
            begin("decoding")
            made += self.finish(jobs, latents, options, size is None)
        return made

    def prepare(
        self,
        edits: Sequence[Edit],
        size: Size | None = None,
        batch: int = 1,
        encoded: Sequence[tuple[Image, Tensor]] = (),
    ) -> list[PreparedEdit]:
        """Bring the edits' images to the model's sizes and encode each image once.

        Args:
            batch: how many images of one size are encoded together.
            encoded: images whose latents [1, C, h, w] are known already.

        Raises:
            KontextError: see `edit_many`.
        """
        images = {id(image): image for edit in edits for image in edit.images}
        placed = {  # the canvas that the model sees, and where in it the image lies
            key: fit(image, self._size(image), self.background, self._stretches(image))
            for key, image in images.items()
        }
        known = {id(image): latents for image, latents in encoded}
        missing = [key for key in images if key not in known]
        for keys in batches_of(missing, batch, lambda key: placed[key][0].shape):
            latents = self.codec.encode([placed[key][0] for key in keys])
            known.update(zip(keys, torch.split(latents, 1), strict=True))
        return [self._prepared(edit, size, placed, known) for edit in edits]

    def denoise(
        self, jobs: Sequence[PreparedEdit], options: Options, on_step: OnStep | None = None
    ) -> Tensor:
        """Sample the latents [B, C, h, w] of edits with equal shapes, float32."""
        transformer, factor = self.model.transformer, self.model.autoencoder.factor
        width, height = jobs[0].target
        shape = (transformer.shape.in_channels // 4, height // factor, width // factor)
        guidance = self.guidance(options)
        keeps = [job.keep for job in jobs if job.keep is not None]
        return sample(
            transformer,
            torch.cat([noise(job.edit.seed, [job.edit.stream], shape) for job in jobs]),
            self._prompt([job.edit.instruction for job in jobs]),
            [torch.cat(rows) for rows in zip(*(job.contexts for job in jobs), strict=True)],
            steps=self.steps(options),
            guidance=guidance,
            empty=None if guidance.plain else self._prompt([""]),
            keep=Keep.join(keeps) if keeps else None,
            on_step=on_step,
            autocast=self.autocast,
        )

    def finish(
        self, jobs: Sequence[PreparedEdit], latents: Tensor, options: Options, cut: bool = True
    ) -> list[Image]:
        """Pictures of sampled latents [B, C, h, w] of edits with equal shapes.

        Args:
            cut: to the image's frame on its canvas, and brought back to its size. Edits with a mask
                always are, and put in it.
        """
        originals = [job.canvas for job in jobs if job.canvas is not None]
        encoded = None
        if self.keeps_detail(options.keep_detail) and originals:
            first = jobs[0].contexts[0]
            if first.shape[2:] == latents.shape[2:]:
                encoded = torch.cat([job.contexts[0] for job in jobs])
        pictures = self.codec.decode(latents, originals, encoded)
        restore = options.keep_detail is not False
        rows = zip(jobs, pictures, strict=True)
        return [_framed(job, picture, cut, restore) for job, picture in rows]

    def keeps_detail(self, asked: bool | None = None) -> bool:
        """Whether edits have their picture's own detail restored: as asked, or by the model."""
        return self.settings.keep_detail if asked is None else asked

    def tile(self, image: Image) -> int:
        """Side of the tiles in which an edit of `image` is coded, in pixels; 0: in one piece."""
        return self.codec.tile(self._size(image))

    def edited_at(self, image: Image) -> Size:
        """(width, height) at which the model sees and edits `image`."""
        picture = (image.shape[1], image.shape[0])
        return inner_size(picture, self._size(image), self._stretches(image))

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
        """The sampler's guidance for `options`, on this model. Raises KontextError: see `steps`."""
        own = self.settings.guidance if options.guidance is None else options.guidance
        transformer = self.model.transformer
        if options.true_cfg != 1.0 and not transformer.shape.guidance_embed:
            raise KontextError("true_cfg is for models with a guidance embedding: use guidance")
        return Guidance.of(transformer, own, options.image_guidance, options.true_cfg)

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

    def provenance(self, edit: Edit, options: Options, then: tuple[str, ...] = ()) -> Provenance:
        """What `save_image` writes into the file of an edit, and of its turns `then`."""
        own = self.settings
        return Provenance(
            model=own.name,
            digest=self.digest,
            instruction=edit.instruction,
            seed=edit.seed,
            steps=own.steps if options.steps is None else options.steps,
            guidance=own.guidance if options.guidance is None else options.guidance,
            image_guidance=options.image_guidance,
            references=max(0, len(edit.images) - 1),
            masked=edit.mask is not None,
            keep_detail=self.keeps_detail(options.keep_detail),
            tile=self.tile(edit.images[0]) if edit.images else 0,
            then=then,
            quantize=self.model.quantize or "",
            true_cfg=options.true_cfg,
            attention=active_kernel(self.device),
            edited_at="{} x {}".format(*self.edited_at(edit.images[0])) if edit.images else "",
        )

    def _size(self, image: Image) -> Size:
        """(width, height) at which `image` enters the model."""
        height, width = check_image(image).shape[:2]
        return model_size(self.settings.sizes, self.settings.resolution, width, height)

    def _stretches(self, image: Image) -> bool:
        """Whether `image` fills its size by a change of its shape."""
        picture = (image.shape[1], image.shape[0])
        return stretches(self.settings.sizes, picture, self._size(image))

    def _prepared(
        self,
        edit: Edit,
        size: Size | None,
        placed: dict[int, tuple[Image, Frame]],
        known: dict[int, Tensor],
    ) -> PreparedEdit:
        """An edit from its images' canvases and latents, by the images' identities."""
        side = self.settings.resolution
        target, canvas, frame = model_size(self.settings.sizes, side, side, side), None, None
        if edit.images:
            canvas, frame = placed[id(edit.images[0])]
            target = (canvas.shape[1], canvas.shape[0])
        contexts, keep = tuple(known[id(image)] for image in edit.images), None
        if edit.mask is not None:
            if not edit.images or size not in (None, target):
                raise KontextError("a mask needs an image, and a result of that image's size")
            mask = check_mask(edit.mask, edit.images[0])
            factor = self.model.autoencoder.factor
            stretch = self._stretches(edit.images[0])
            keep = Keep(contexts[0], latent_mask(mask, target, stretch, factor))
        return PreparedEdit(edit, contexts, check_size(size or target), frame, canvas, keep)

    def _prompt(self, texts: Sequence[str]) -> Prompt:
        """The texts of a batch, encoded together once and kept for further edits with them."""
        unique = tuple(dict.fromkeys(texts))
        if unique not in self._prompts:
            while self._prompts and sum(map(len, self._prompts)) + len(unique) > _PROMPTS_KEPT:
                del self._prompts[next(iter(self._prompts))]
            tokens, mask, pooled = self.text.encode(unique, self.settings.text_length)
            kept = mask if self.settings.text_mask else None
            self._prompts[unique] = Prompt(tokens, pooled, kept)
        return self._prompts[unique].select([unique.index(text) for text in texts])


def batches_of(rows: Iterable[T], batch: int, kind: Callable[[T], object]) -> Iterator[list[T]]:
    """Neighbours of one kind, at most `batch` at a time."""
    for _, found in groupby(rows, kind):
        group = list(found)
        yield from (group[low : low + batch] for low in range(0, len(group), batch))


def _framed(job: PreparedEdit, picture: Image, cut: bool, restore: bool) -> Image:
    """The part of a result that is the image, at its size; with a mask, put into the image."""
    if job.frame is None or job.canvas is None or not (cut or job.edit.mask is not None):
        return picture
    before, crop = job.edit.images[0], job.frame.crop
    whole = bring_back(before, crop(job.canvas), crop(picture), restore)
    return whole if job.edit.mask is None else composite(before, whole, job.edit.mask)
