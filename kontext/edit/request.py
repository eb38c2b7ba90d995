"""What an editor is asked for, and how requests become batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from kontext.data.buckets import Size
    from kontext.edit.canvas import Frame, Image, Mask
    from kontext.edit.euler import Keep


@dataclass(frozen=True)
class Options:
    """How to edit. None takes the model's own.

    steps: of the sampler; a distilled student has its own few.
    guidance: embedded where the model has an embedding, else classifier-free on the text.
    image_guidance: classifier-free guidance on the context images (see `euler.Guidance`).
    true_cfg: classifier-free guidance on the text, for models with a guidance embedding.
    keep_detail: see kontext.edit.detail; for edits of the first image's size.
    any_text: cut an instruction that is too long, and take an empty one, as training does; else
        both are refused.
    """

    steps: int | None = None
    guidance: float | None = None
    image_guidance: float = 1.0
    true_cfg: float = 1.0
    keep_detail: bool | None = None
    any_text: bool = False


@dataclass(frozen=True)
class Edit:
    """One edit: uint8 [H, W, 3] images, the first of which is changed, the others references.

    No image at all draws one from the instruction. Where there is a `mask` (bool [H, W] of the
    first image), the result has the first image's size and its pixels outside the mask. The noise
    is that of (seed, stream): `kontext edit` has stream 0, the bench one for each item.
    """

    images: Sequence[Image]
    instruction: str
    seed: int = 0
    mask: Mask | None = None
    stream: int = 0


def asked(
    images: Sequence[Image], instruction: str, more: Mapping[str, Any]
) -> tuple[Edit, Options]:
    """One edit and its options, of keywords that are fields of either."""
    own = {name: more[name] for name in ("seed", "mask", "stream") if name in more}
    options = {name: value for name, value in more.items() if name not in own}
    return Edit(images, instruction, **own), Options(**options)


@dataclass(frozen=True)
class PreparedEdit:
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
