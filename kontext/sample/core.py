"""The one path of every edit: from noise, encoded text and context latents to the edit's latents.

Three callers hold to it. `Editor` starts from pictures and instructions (`kontext edit`, and the
bench), `EditSampler` from encoded pairs (the teacher's edits, and what training measures), and the
sample grids of training show what `EditSampler` draws. Nothing else samples an edit, and nothing
but `kontext.sample.codec` decodes one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kontext.models import precision
from kontext.models.transformer import FluxTransformer
from kontext.sample.euler import Guidance, Keep, OnStep, Prompt, sample


def guidance_for(
    transformer: FluxTransformer, scale: float, image: float = 1.0, true_cfg: float = 1.0
) -> Guidance:
    """Guidance of strength `scale` in the form that this model takes.

    A model with a guidance embedding is given `scale` as an input. For others it is classifier-free
    guidance on the text.

    Args:
        image: classifier-free guidance on the context pictures.
        true_cfg: classifier-free guidance on the text of a model with a guidance embedding.
    """
    if transformer.shape.guidance_embed:
        return Guidance(true_cfg, image, embedded=scale)
    return Guidance(scale, image)


def denoise(
    transformer: FluxTransformer,
    start: Tensor,
    prompt: Prompt,
    contexts: Sequence[Tensor],
    *,
    guidance: Guidance,
    steps: int = 28,
    times: Tensor | None = None,
    empty: Prompt | None = None,
    keep: Keep | None = None,
    on_step: OnStep | None = None,
    autocast: bool = True,
) -> Tensor:
    """Latents [B, C, h, w] of edits, float32, on the transformer's device.

    The arguments are those of `kontext.sample.euler.sample`.

    Args:
        autocast: compute in bf16 where the device is faster with it.
    """
    device = transformer.img_in.weight.device
    with precision.autocast(device, autocast):
        return sample(
            transformer,
            start.to(device),
            prompt,
            contexts,
            steps=steps,
            times=times,
            guidance=guidance,
            empty=empty,
            keep=keep,
            on_step=on_step,
        )
