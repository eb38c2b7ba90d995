"""Our editor beside diffusers' FluxKontextPipeline: same weights, text, noise and photograph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from PIL import Image
from torch import nn

from kontext.models.autoencoder import Autoencoder
from kontext.models.convert import autoencoder_config, rules_for, to_diffusers, transformer_config
from kontext.models.sequence import pack
from kontext.models.text import Encoded
from kontext.models.transformer import FluxTransformer
from kontext.sample.editor import Editor
from kontext.sample.euler import noise
from kontext.sample.folder import LoadedModel, ModelSettings
from schemas.recipes import AutoencoderShape, TransformerShape

AE = AutoencoderShape(ch=8, ch_mult=(1, 1, 2, 2), num_res_blocks=1, z_channels=4, norm_groups=4)
FLOW = TransformerShape(
    in_channels=16,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=24,
    num_heads=2,
    depth=1,
    depth_single_blocks=2,
    axes_dim=(4, 4, 4),
    guidance_embed=False,
)
LENGTH = 7


class Drawn:
    """A text encoder that draws its embeddings from the text."""

    digest, dim, pooled_dim = "drawn", 10, 6

    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        generators = [torch.Generator().manual_seed(len(text)) for text in texts]
        tokens = torch.stack([torch.randn(length, self.dim, generator=g) for g in generators])
        pooled = torch.stack([torch.randn(self.pooled_dim, generator=g) for g in generators])
        return tokens, torch.ones(len(texts), length, dtype=torch.bool), pooled

    def count(self, text: str) -> int:
        return len(text.split())


def randomised(model: nn.Module, gain: float) -> nn.Module:
    """Weights that keep the signal's size, so that nothing is lost in zeros or saturation."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(drawn * gain / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(0.1 * drawn)
    return model.requires_grad_(False).eval()


def loaded(guidance_embed: bool) -> LoadedModel:
    flow = FluxTransformer(FLOW.model_copy(update={"guidance_embed": guidance_embed}))
    ae = Autoencoder(AE, scale=0.6, shift=0.1)
    randomised(flow, 1.0)
    randomised(ae, 0.8)
    settings = ModelSettings(name="random", text_length=LENGTH, sizes="kontext", steps=3)
    return LoadedModel(flow, ae, settings, "0" * 64)


def pipeline(model: LoadedModel) -> FluxKontextPipeline:
    """diffusers' pipeline with the same weights; the text encoders are not needed."""
    parts = []
    for kind, ours, config in (
        (FluxTransformer2DModel, model.transformer, transformer_config(model.transformer.shape)),
        (AutoencoderKL, model.autoencoder, autoencoder_config(model.autoencoder)),
    ):
        theirs = kind(**{k: v for k, v in config.items() if k[0] != "_"}).eval()
        theirs.load_state_dict(to_diffusers(ours.state_dict(), rules_for(ours)))
        parts.append(theirs)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0
    )
    made = FluxKontextPipeline(scheduler, parts[1], None, None, None, None, parts[0])
    made.set_progress_bar_config(disable=True)
    return made


def photo() -> np.ndarray:
    """600 x 450: Kontext takes it at 1184 x 880."""
    y, x = np.mgrid[0:450, 0:600]
    waves = [127 + 120 * np.sin(x / a + y / b) for a, b in ((30, 50), (17, -40), (90, 8))]
    return np.stack(waves, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("guidance_embed", "guidance", "text_guidance"),
    [(True, 2.5, 1.0), (False, 3.0, 3.0), (True, 2.5, 2.0)],
    ids=["embedded", "true CFG", "both"],
)
def test_edits_equal_those_of_the_published_pipeline(
    guidance_embed: bool, guidance: float, text_guidance: float
) -> None:
    model, text, size = loaded(guidance_embed), Drawn(), (192, 144)
    editor = Editor(model, text, autocast=False)
    extra = {"true_cfg": text_guidance} if guidance_embed else {}
    ours = editor.edit([photo()], "paint it", guidance=guidance, seed=5, size=size, **extra)

    embeds, _, pooled = text.encode(["paint it"], LENGTH)
    empty, _, empty_pooled = text.encode([""], LENGTH)
    theirs = pipeline(model)(
        image=Image.fromarray(photo()),
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=empty,
        negative_pooled_prompt_embeds=empty_pooled,
        true_cfg_scale=text_guidance,
        guidance_scale=guidance,
        latents=pack(noise(5, [0], (4, size[1] // 8, size[0] // 8))),
        width=size[0],
        height=size[1],
        max_area=size[0] * size[1],
        num_inference_steps=3,
        output_type="np",
    ).images[0]
    theirs = np.round(theirs * 255).astype(int)
    assert ours.shape == theirs.shape == (144, 192, 3)
    assert theirs.std() > 20, "the comparison is worth nothing on a flat picture"
    assert ((theirs > 0) & (theirs < 255)).mean() > 0.5
    assert np.abs(ours.astype(int) - theirs).max() <= 2
    other = editor.edit([255 - photo()], "paint it", guidance=guidance, seed=5, size=size, **extra)
    assert np.abs(other.astype(int) - theirs).max() > 2, "the context has no say"
