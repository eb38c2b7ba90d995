"""Shapes of the models that a recipe trains."""

from __future__ import annotations

from pydantic import Field

from schemas.sections.base import Section


class AutoencoderShape(Section):
    """FLUX.1's autoencoder geometry: f8, 16 channels; narrow by default (see anchors for full)."""

    in_channels: int = 3
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 16
    norm_groups: int = 32


class TransformerShape(Section):
    """FLUX.1's transformer geometry. Defaults are FLUX.1-dev's published numbers."""

    in_channels: int = 64
    vec_in_dim: int = 768
    context_in_dim: int = 4096
    hidden_size: int = 3072
    mlp_ratio: float = 4.0
    num_heads: int = 24
    depth: int = 19
    depth_single_blocks: int = 38
    axes_dim: tuple[int, int, int] = (16, 56, 56)
    theta: int = 10_000
    qkv_bias: bool = True
    guidance_embed: bool = True
    timestep_shift: tuple[float, float] = Field(
        (0.5, 1.15), title="Timestep shift mu at 256 and at 4,096 target tokens"
    )
    cached_context: bool = Field(
        False, title="Contexts see only each other, at t = 0, and can be cached (not FLUX.1)"
    )
