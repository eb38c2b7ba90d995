"""Shapes of the models that a recipe trains."""

from pydantic import Field

from schemas.sections.base import Section


class AutoencoderShape(Section):
    """FLUX.1's autoencoder: 8 times smaller latents of 16 channels. Defaults are FLUX.1's."""

    in_channels: int = Field(3, title="Channels of an image")
    ch: int = Field(128, title="Channels at full resolution")
    ch_mult: tuple[int, ...] = Field((1, 2, 4, 4), title="Channels per resolution, times ch")
    num_res_blocks: int = Field(2, title="Residual blocks per resolution")
    z_channels: int = Field(16, title="Channels of a latent")
    norm_groups: int = Field(32, title="Groups of a group norm")


class TransformerShape(Section):
    """FLUX.1's transformer. Defaults are the published numbers of FLUX.1 [dev]."""

    in_channels: int = Field(64, title="Channels of an image token (2 x 2 latents)")
    vec_in_dim: int = Field(768, title="Width of the pooled text vector")
    context_in_dim: int = Field(4096, title="Width of a text token")
    hidden_size: int = Field(3072, title="Width of a token inside")
    mlp_ratio: float = Field(4.0, title="Width of a feed-forward layer, times the token's")
    num_heads: int = Field(24, title="Attention heads")
    depth: int = Field(19, title="Double blocks (texts and images apart)")
    depth_single_blocks: int = Field(38, title="Single blocks (texts and images as one)")
    axes_dim: tuple[int, int, int] = Field(
        (16, 56, 56), title="Rotary dimensions of a head, by axis: image, row, column"
    )
    theta: int = Field(10_000, title="Base of the rotary frequencies")
    qkv_bias: bool = Field(True, title="Bias of the attention projections")
    guidance_embed: bool = Field(True, title="Embedding of the guidance scale (FLUX.1 [dev])")
    timestep_shift: tuple[float, float] = Field(
        (0.5, 1.15), title="Timestep shift mu at 256 and at 4,096 image tokens"
    )
    cached_context: bool = Field(
        False, title="Context tokens attend to each other only and can be cached (not FLUX.1)"
    )
