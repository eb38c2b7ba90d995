"""FLUX.1's transformer: double-stream blocks, then parallel single-stream blocks.

Numerics and parameter names are those of BFL's reference (fused qkv, RMS-normalised queries and
keys, AdaLN modulation, interleaved rotary pairs in float32). Context images are extra tokens after
the target's; only the target's tokens come out. One layout is ours: contexts kept apart so that
they can be cached (`kontext.models.flux.layout`). Kernels are chosen in
`kontext.parallel.attention`. The last block computes only the rows that are read afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.errors import RecipeError
from kontext.models.files.stored import load_stored
from kontext.models.flux.blocks import DoubleBlock, LastLayer, SingleBlock
from kontext.models.flux.heads import Rotary
from kontext.models.flux.layout import (
    AttentionPattern,
    Conditioning,
    ContextCache,
    KeysValues,
    attention_pattern,
)
from kontext.models.flux.sequence import rope
from schemas.sections.models import TransformerShape

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact


def timestep_embedding(t: Tensor) -> Tensor:
    """Sinusoid of 1000·t, cosines first, periods up to 10,000: [B] -> [B, 256] float32.

    The product is taken in t's own dtype: BFL's sampler holds t in bfloat16 at this point, so a
    caller who wants its rounding passes bfloat16.
    """
    steps = torch.arange(128, dtype=torch.float32, device=t.device)
    freqs = torch.exp(-math.log(10_000.0) * steps / 128)
    args = (1000.0 * t)[:, None].float() * freqs
    return torch.cat([args.cos(), args.sin()], dim=-1)


class MLPEmbedder(nn.Module):
    """Two linear layers with SiLU between: embeds time, guidance and pooled text."""

    def __init__(self, in_dim: int, hidden: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(in_dim, hidden)
        self.out_layer = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ..., in_dim] -> [B, ..., hidden]."""
        return self.out_layer(F.silu(self.in_layer(x)))  # type: ignore[no-any-return]


class _Inputs(NamedTuple):
    """What the blocks start from."""

    img: Tensor  # [B, N, hidden]
    txt: Tensor  # [B, L, hidden]
    conditioning: Conditioning
    rotary: Rotary
    pattern: AttentionPattern
    last_pattern: AttentionPattern  # of the targets' rows, all that the last block computes


class FluxTransformer(nn.Module):
    """The velocity network v(tokens, t | text, pooled, contexts)."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        check_shape(shape)
        self.shape = shape
        hidden = shape.hidden_size
        self.img_in = nn.Linear(shape.in_channels, hidden)
        self.txt_in = nn.Linear(shape.context_in_dim, hidden)
        self.time_in = MLPEmbedder(256, hidden)
        self.vector_in = MLPEmbedder(shape.vec_in_dim, hidden)
        self.guidance_in = MLPEmbedder(256, hidden) if shape.guidance_embed else None
        self.double_blocks = nn.ModuleList(DoubleBlock(shape) for _ in range(shape.depth))
        self.single_blocks = nn.ModuleList(
            SingleBlock(shape) for _ in range(shape.depth_single_blocks)
        )
        self.final_layer = LastLayer(hidden, shape.in_channels)
        if not self.img_in.weight.is_meta:  # there, normal_ imports torch._dynamo: seconds
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise for training from scratch, as DiT does.

        Xavier-uniform weights and zero biases (fused projections part by part, so that each part
        has the bound it would have alone); modulations, their gates and the output are zero, so
        every block starts as the identity and the first prediction is zero.
        """
        hidden = self.shape.hidden_size
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.startswith("final_layer") or name.endswith((".lin", "adaLN_modulation.1")):
                nn.init.zeros_(module.weight)
            elif name.endswith((".qkv", ".linear1")):
                for part in module.weight[: 3 * hidden].chunk(3):
                    nn.init.xavier_uniform_(part)
                if module.out_features > 3 * hidden:
                    nn.init.xavier_uniform_(module.weight[3 * hidden :])
            elif name.startswith(("time_in", "guidance_in", "vector_in")):
                nn.init.normal_(module.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(module.weight)

    def forward(
        self,
        tokens: Tensor,
        ids: Tensor,
        text: Tensor,
        pooled: Tensor,
        timesteps: Tensor,
        *,
        target_length: int,
        guidance: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: ContextCache | None = None,
    ) -> Tensor:
        """Predict the velocity (noise - data) of the target's tokens.

        Args:
            tokens: packed latents [B, N, in_channels], [noisy target | clean contexts].
            ids: their positions, [N, 3] or [B, N, 3] (see `sequence.sequence_ids`).
            text: text states [B, L, context_in_dim].
            pooled: pooled text [B, vec_in_dim].
            timesteps: [B] in [0, 1], 1 = noise.
            target_length: how many leading tokens are the target.
            guidance: [B], for models with a guidance embedding and only for them.
            attention_mask: True = may be attended; keys [B, L+N], or pairs [B, L+N, L+N], N with
                the cached contexts.
            cache: the contexts' keys and values from `context_cache`, in place of their tokens.

        Returns:
            [B, target_length, in_channels].

        Raises:
            ValueError: arguments that do not go together, or not with this model.
        """
        past = self._check(tokens, target_length, cache)
        img, txt, conditioning, rotary, pattern, last_pattern = self._prepare(
            tokens, ids, text, pooled, timesteps, guidance, target_length, attention_mask
        )
        n_txt, depth = txt.shape[1], len(self.double_blocks)
        for index, block in enumerate(self.double_blocks):
            img, txt = block(img, txt, conditioning, rotary, pattern, past[index])
        rows = slice(n_txt, n_txt + target_length)
        if len(self.single_blocks):
            x = torch.cat((txt, img), dim=1)
            for index, block in enumerate(self.single_blocks[:-1], depth):
                x = block(x, conditioning, rotary, pattern, past[index])
            img = self.single_blocks[-1](x, conditioning, rotary, last_pattern, past[-1], rows)
        return self.final_layer(img[:, :target_length], conditioning.of(rows))  # type: ignore[no-any-return]

    def features(
        self,
        tokens: Tensor,
        ids: Tensor,
        text: Tensor,
        pooled: Tensor,
        timesteps: Tensor,
        *,
        taps: Sequence[int],
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        """Image-token states [B, N, hidden] after the blocks `taps`, in the order of `taps`.

        Blocks are numbered through: double blocks first, then single ones. Computation stops
        after the deepest tap. Arguments are those of `forward`; where contexts are kept apart,
        the target's length is read off `ids`.
        """
        depth, total = len(self.double_blocks), len(self.double_blocks) + len(self.single_blocks)
        if not taps or min(taps) < 0 or max(taps) >= total:
            raise ValueError(f"taps {tuple(taps)} are not within the model's {total} blocks")
        length = tokens.shape[1]
        if self.shape.cached_context:
            length = int((ids[..., 0] == 0).sum(-1).max())
        img, txt, conditioning, rotary, pattern, _ = self._prepare(
            tokens, ids, text, pooled, timesteps, guidance, length, None
        )
        n_txt, x = txt.shape[1], None
        states: dict[int, Tensor] = {}
        for index in range(max(taps) + 1):
            if index < depth:
                img, txt = self.double_blocks[index](img, txt, conditioning, rotary, pattern)
            else:
                x = torch.cat((txt, img), dim=1) if x is None else x
                x = self.single_blocks[index - depth](x, conditioning, rotary, pattern)
                img = x[:, n_txt:]
            if index in taps:
                states[index] = img
        return [states[tap] for tap in taps]

    @torch.no_grad()
    def context_cache(
        self, tokens: Tensor, ids: Tensor, pooled: Tensor, *, guidance: Tensor | None = None
    ) -> ContextCache:
        """The contexts' keys and values in every block, for `forward(..., cache=...)`.

        Contexts run through the same blocks as an image without text, at t = 0. The result holds
        for one instruction (they are modulated by it) and every step and target size.

        Args:
            tokens: clean contexts [B, M, in_channels], one after the other.
            ids: their positions [M, 3] or [B, M, 3], first axis 1…N.
            pooled, guidance: as for `forward`; B may be 1 to serve any batch.

        Raises:
            ValueError: the model was not made with `cached_context`.
        """
        if not self.shape.cached_context:
            raise ValueError("this model's contexts change at every step: cached_context is off")
        silu_vec = self._silu_vec(torch.zeros_like(pooled[:, :1]), pooled, guidance)
        kept: list[KeysValues] = []
        conditioning, rotary = Conditioning(silu_vec), self._rotary(ids, 0)
        pattern = AttentionPattern(kept=kept)
        img = self.img_in(tokens.to(self.img_in.weight.dtype))
        txt = img[:, :0]
        for block in self.double_blocks:
            img, txt = block(img, txt, conditioning, rotary, pattern)
        for block in self.single_blocks:
            img = block(img, conditioning, rotary, pattern)
        return ContextCache(tuple(kept))

    def _check(
        self, tokens: Tensor, target_length: int, cache: ContextCache | None
    ) -> Sequence[KeysValues | None]:
        """The cached keys and values per block, after checking that the arguments agree."""
        if cache is None:
            return [None] * (len(self.double_blocks) + len(self.single_blocks))
        if not self.shape.cached_context:
            raise ValueError("this model's contexts change at every step: cached_context is off")
        if tokens.shape[1] != target_length:
            raise ValueError("the contexts are in the cache: give the target's tokens alone")
        return cache.layers

    def _prepare(
        self,
        tokens: Tensor,
        ids: Tensor,
        text: Tensor,
        pooled: Tensor,
        timesteps: Tensor,
        guidance: Tensor | None,
        target_length: int,
        attention_mask: Tensor | None,
    ) -> _Inputs:
        dtype, device = self.img_in.weight.dtype, tokens.device
        n_txt, n_img = text.shape[1], tokens.shape[1]
        apart = self.shape.cached_context and n_img > target_length
        times = timesteps[:, None]
        if apart:
            times = torch.cat((times, torch.zeros_like(times)), dim=1)
        silu_vec = self._silu_vec(times, pooled, guidance)
        main, level = n_txt + target_length, None
        pattern = attention_pattern(attention_mask, main if apart else None)
        if apart:
            level = (torch.arange(n_txt + n_img, device=device) >= main).long()
        return _Inputs(
            self.img_in(tokens.to(dtype)),
            self.txt_in(text.to(dtype)),
            Conditioning(silu_vec, level),
            self._rotary(ids, n_txt),
            pattern,
            pattern.of(slice(n_txt, main)),
        )

    def _silu_vec(self, times: Tensor, pooled: Tensor, guidance: Tensor | None) -> Tensor:
        """SiLU of the conditioning vectors: times [B, S], pooled [B, P] -> [B, S, hidden]."""
        if (guidance is None) != (self.guidance_in is None):
            has = "needs" if self.guidance_in is not None else "has no"
            raise ValueError(f"this model {has} guidance embedding")
        dtype = self.img_in.weight.dtype
        vec = self.time_in(timestep_embedding(times.flatten()).to(dtype))
        vec = vec.view(*times.shape, -1)
        if self.guidance_in is not None and guidance is not None:
            vec = vec + self.guidance_in(timestep_embedding(guidance).to(dtype))[:, None]
        return F.silu(vec + self.vector_in(pooled.to(dtype))[:, None])

    def _rotary(self, ids: Tensor, n_txt: int) -> Rotary:
        """The table of `n_txt` text tokens, at position zero, and the images after them."""
        cos, sin = rope(F.pad(ids, (0, 0, n_txt, 0)), self.shape.axes_dim, self.shape.theta)
        return Rotary(cos[None], sin[None]) if ids.dim() == 2 else Rotary(cos, sin)


def check_shape(shape: TransformerShape) -> None:
    """Raise RecipeError where the numbers of a shape do not fit together."""
    if shape.hidden_size % shape.num_heads:
        raise RecipeError(
            f"hidden_size {shape.hidden_size} is not a multiple of num_heads {shape.num_heads}"
        )
    head = shape.hidden_size // shape.num_heads
    if sum(shape.axes_dim) != head or any(d % 2 for d in shape.axes_dim):
        raise RecipeError(f"axes_dim {shape.axes_dim} must be even and sum to the head's {head}")


def load_transformer(artifact: Artifact, name: str, device: torch.device) -> FluxTransformer:
    """The transformer in file `name` of a finetune or distill artifact, frozen.

    Its shape is in the artifact's `config.json`: under `shape`, or the whole file.

    Raises:
        WeightsError: damaged, or of another shape.
    """
    config = artifact.json("config.json")
    with torch.device("meta"):
        model = FluxTransformer(TransformerShape.model_validate(config.get("shape", config)))
    load_stored(model, artifact.path(name))
    return model.requires_grad_(False).eval().to(device)
