"""What an editor is asked for, and how requests become batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kontext.sample.canvas import Frame, Image, Mask
from kontext.sample.euler import Keep, Prompt
from kontext.sample.sizes import Size


@dataclass(frozen=True)
class Options:
    """How to edit. None takes the model's own.

    steps: of the sampler; a distilled student has its own few.
    guidance: told to a model with a guidance embedding; for others classifier-free, on the text.
    image_guidance: classifier-free, on the context images (see `euler.Guidance`).
    true_cfg: classifier-free on the text, for models with a guidance embedding.
    keep_detail: give back what the autoencoder lost of what the edit left alone (kontext.sample.
        detail); for edits of the first image's size.
    """

    steps: int | None = None
    guidance: float | None = None
    image_guidance: float = 1.0
    true_cfg: float = 1.0
    keep_detail: bool | None = None


@dataclass(frozen=True)
class Edit:
    """One edit: uint8 [H, W, 3] images, the first of which is changed, the others references.

    No image at all draws one from the instruction. Where there is a `mask` (bool [H, W] of the
    first image), the result has the first image's size and its pixels outside the mask.
    """

    images: Sequence[Image]
    instruction: str
    seed: int = 0
    mask: Mask | None = None


@dataclass(frozen=True)
class Ready:
    """An edit as the model sees it: context latents [1, C, h, w], target size, what to keep.

    `canvas` is the first image as it was encoded, and `frame` the part of it that is the image.
    """

    edit: Edit
    contexts: tuple[Tensor, ...]
    target: Size
    frame: Frame | None
    canvas: Image | None = None
    keep: Keep | None = None

    @property
    def shapes(self) -> tuple[object, ...]:
        """Edits with equal shapes can share a batch."""
        return (self.target, self.keep is None, *(c.shape for c in self.contexts))


def join_prompts(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts of one text each, as a batch."""
    masks = [prompt.mask for prompt in prompts if prompt.mask is not None]
    return Prompt(
        torch.cat([prompt.text for prompt in prompts]),
        torch.cat([prompt.pooled for prompt in prompts]),
        torch.cat(masks) if masks else None,
    )


def join_keeps(keeps: Sequence[Keep]) -> Keep:
    return Keep(torch.cat([k.latents for k in keeps]), torch.cat([k.free for k in keeps]))
