"""Our editor beside diffusers' FluxKontextPipeline: same weights, text, noise and photograph."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from kontext.edit.edit_model import EditModel
from kontext.edit.euler import noise
from kontext.edit.weights.folder import LoadedModel, ModelSettings
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.convert import (
    autoencoder_config,
    rules_for,
    to_diffusers,
    transformer_config,
)
from kontext.models.flux.sequence import pack
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.text.encoders import Encoded
from schemas.sections.models import AutoencoderShape, TransformerShape

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
SHARP = 3.0


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


def randomised(model: nn.Module, gain: float, seed: int = 0) -> nn.Module:
    """Weights that keep the signal's size, so that nothing is lost in zeros or saturation.

    Norms of queries and keys make attention choose: spread evenly over thousands of context
    tokens it would see their mean, and the context would hardly count.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(drawn * gain / parameter[0].numel() ** 0.5)
            else:
                parameter.add_(0.1 * drawn)
            if name.endswith("norm.scale"):
                parameter.mul_(SHARP)
    return model.requires_grad_(False).eval()


def loaded(flow: TransformerShape, ae: AutoencoderShape = AE, seed: int = 0) -> LoadedModel:
    transformer, autoencoder = FluxTransformer(flow), Autoencoder(ae, scale=0.6, shift=0.1)
    randomised(transformer, 1.0, seed)
    randomised(autoencoder, 0.8, seed)
    settings = ModelSettings(name="random", text_length=LENGTH, sizes="kontext", steps=3)
    return LoadedModel(transformer, autoencoder, settings, "0" * 64)


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


def published(
    model: LoadedModel,
    image: np.ndarray,
    size: tuple[int, int],
    guidance: float,
    text_guidance: float,
    seed: int,
    resize: bool = True,
) -> np.ndarray:
    """The pipeline's edit, from our noise, with values 0 to 255.

    Args:
        resize: bring the image to one of Kontext's sizes first.
    """
    embeds, _, pooled = Drawn().encode(["paint it"], LENGTH)
    empty, _, empty_pooled = Drawn().encode([""], LENGTH)
    made = pipeline(model)(
        image=Image.fromarray(image),
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=empty,
        negative_pooled_prompt_embeds=empty_pooled,
        true_cfg_scale=text_guidance,
        guidance_scale=guidance,
        latents=pack(noise(seed, [0], (4, size[1] // 8, size[0] // 8))),
        width=size[0],
        height=size[1],
        max_area=size[0] * size[1],
        num_inference_steps=3,
        output_type="np",
        _auto_resize=resize,
    ).images[0]
    return np.round(made * 255).astype(int)


def ours(
    model: LoadedModel,
    image: np.ndarray,
    size: tuple[int, int],
    guidance: float,
    text_guidance: float,
    seed: int,
) -> np.ndarray:
    """Our editor's, in fp32. Without a guidance embedding `guidance` is the text's."""
    editor = EditModel(model, Drawn(), autocast=False)
    embedded = model.transformer.shape.guidance_embed
    extra = {"true_cfg": text_guidance} if embedded else {}
    strength = guidance if embedded else text_guidance
    made = editor.edit([image], "paint it", guidance=strength, seed=seed, size=size, **extra)
    return made.astype(int)


@pytest.mark.parametrize(
    ("guidance_embed", "guidance", "text_guidance"),
    [(True, 2.5, 1.0), (False, 3.0, 3.0), (True, 2.5, 2.0)],
    ids=["embedded", "true CFG", "both"],
)
def test_edits_equal_those_of_the_published_pipeline(
    guidance_embed: bool, guidance: float, text_guidance: float
) -> None:
    model = loaded(FLOW.model_copy(update={"guidance_embed": guidance_embed}))
    how = ((192, 144), guidance, text_guidance, 5)
    found, theirs = ours(model, photo(), *how), published(model, photo(), *how)
    assert found.shape == theirs.shape == (144, 192, 3)
    assert theirs.std() > 20, "the comparison is worth nothing on a flat picture"
    assert ((theirs > 0) & (theirs < 255)).mean() > 0.5
    assert np.abs(found - theirs).max() <= 2
    other = ours(model, 255 - photo(), *how)
    assert np.abs(other - theirs).max() > 20, "the context has no say"


@st.composite
def flows(draw: st.DrawFn) -> TransformerShape:
    axes = tuple(2 * draw(st.integers(1, 3)) for _ in range(3))
    heads = draw(st.integers(1, 2))
    return FLOW.model_copy(
        update={
            "axes_dim": axes,
            "num_heads": heads,
            "hidden_size": heads * sum(axes),
            "depth": draw(st.integers(0, 2)),
            "depth_single_blocks": draw(st.integers(0, 3)),
            "guidance_embed": draw(st.booleans()),
        }
    )


@st.composite
def autoencoders(draw: st.DrawFn) -> AutoencoderShape:
    return AE.model_copy(
        update={
            "ch": 4 * draw(st.integers(1, 3)),
            "ch_mult": draw(st.sampled_from(((1, 1, 2, 2), (1, 2, 2, 4)))),
            "num_res_blocks": draw(st.integers(1, 2)),
        }
    )


sides = st.integers(1, 6).map(lambda n: 16 * n)


@settings(max_examples=8, deadline=None)
@given(flows(), autoencoders(), sides, st.tuples(sides, sides), st.integers(0, 99))
def test_edits_equal_for_models_of_any_measures(
    flow: TransformerShape, ae: AutoencoderShape, side: int, size: tuple[int, int], seed: int
) -> None:
    """A context of its own size beside a target of another, at the model's own resolution."""
    made = loaded(flow, ae, seed)
    square = made.settings.model_copy(update={"sizes": "square", "resolution": side})
    model = replace(made, settings=square)
    image = photo()[:side, :side]
    how = (size, 2.5, 1.0 if flow.guidance_embed else 2.0, seed)
    found, theirs = ours(model, image, *how), published(model, image, *how, resize=False)
    assert found.shape == theirs.shape == (size[1], size[0], 3)
    assert np.abs(found - theirs).max() <= 2
