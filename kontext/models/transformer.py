"""FLUX.1's transformer: double-stream blocks, then parallel single-stream blocks.

Numerics and parameter names are those of BFL's reference (fused qkv, RMS-normalised queries and
keys, AdaLN modulation, interleaved rotary pairs in float32). Context images are extra tokens after
the target's, under the same modulation; only the target's tokens come out. The model knows nothing
of parallelism: kernels are chosen in `kontext.parallel.attention`.

Two things are done differently without changing a result: the query-key norm's scale is folded
into the rotary table, and the last block computes only the rows that are read afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.errors import RecipeError
from kontext.models.heads import EPS, Rotary, split_heads
from kontext.models.sequence import rope
from kontext.parallel.attention import attention
from schemas.recipes import TransformerShape


def timestep_embedding(t: Tensor, dim: int = 256, max_period: float = 10_000.0) -> Tensor:
    """Sinusoid of 1000·t, cosines first: [B] -> [B, dim] float32.

    The product is taken in t's own dtype: BFL's sampler holds t in bfloat16 at this point, so a
    caller who wants its rounding passes bfloat16.
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    freqs = torch.exp(-math.log(max_period) * steps / half)
    args = (1000.0 * t)[:, None].float() * freqs
    return torch.cat([args.cos(), args.sin()], dim=-1)


class MLPEmbedder(nn.Module):
    """Two linear layers with SiLU between: embeds time, guidance and pooled text."""

    def __init__(self, in_dim: int, hidden: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(in_dim, hidden)
        self.out_layer = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))  # type: ignore[no-any-return]


class RMSScale(nn.Module):
    """Holds an RMSNorm's weight under BFL's name `scale`; the norm itself runs in `split_heads`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))


class QKNorm(nn.Module):
    """The query's and the key's norm weights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm = RMSScale(dim)
        self.key_norm = RMSScale(dim)

    def scales(self) -> Tensor:
        """Both weights, [1, 2, D]."""
        return torch.stack((self.query_norm.scale, self.key_norm.scale))[None]


class Modulation(nn.Module):
    """SiLU(vec) -> `multiplier` x (shift, scale, gate) of [B, 1, hidden] each."""

    def __init__(self, hidden: int, multiplier: int) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.lin = nn.Linear(hidden, multiplier * 3 * hidden)

    def forward(self, silu_vec: Tensor) -> tuple[Tensor, ...]:
        return self.lin(silu_vec)[:, None].chunk(self.multiplier * 3, dim=-1)  # type: ignore[no-any-return]


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, (x.shape[-1],), eps=EPS), 1 + scale)


def _by_head(qkv: Tensor, heads: int) -> Tensor:
    """[B, L, 3 * hidden] -> [B, L, 3, heads, D]."""
    return qkv.view(*qkv.shape[:2], 3, heads, -1)


class SelfAttention(nn.Module):
    """The projections of one stream of a double block."""

    def __init__(self, hidden: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=qkv_bias)
        self.norm = QKNorm(hidden // heads)
        self.proj = nn.Linear(hidden, hidden)


def _mlp(hidden: int, mlp_hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(hidden, mlp_hidden), nn.GELU(approximate="tanh"), nn.Linear(mlp_hidden, hidden)
    )


class DoubleBlock(nn.Module):
    """Text and image streams with their own weights, joined in one attention."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        hidden, mlp_hidden = shape.hidden_size, int(shape.hidden_size * shape.mlp_ratio)
        self.heads = shape.num_heads
        self.img_mod = Modulation(hidden, 2)
        self.img_attn = SelfAttention(hidden, shape.num_heads, shape.qkv_bias)
        self.img_mlp = _mlp(hidden, mlp_hidden)
        self.txt_mod = Modulation(hidden, 2)
        self.txt_attn = SelfAttention(hidden, shape.num_heads, shape.qkv_bias)
        self.txt_mlp = _mlp(hidden, mlp_hidden)

    def forward(
        self, img: Tensor, txt: Tensor, silu_vec: Tensor, rotary: Rotary, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        n_txt, n_img = txt.shape[1], img.shape[1]
        i_shift, i_scale, i_gate, i_shift2, i_scale2, i_gate2 = self.img_mod(silu_vec)
        t_shift, t_scale, t_gate, t_shift2, t_scale2, t_gate2 = self.txt_mod(silu_vec)
        txt_qkv = self.txt_attn.qkv(_modulate(txt, t_shift, t_scale))
        img_qkv = self.img_attn.qkv(_modulate(img, i_shift, i_scale))
        qkv = _by_head(torch.cat((txt_qkv, img_qkv), dim=1), self.heads)
        scale = torch.cat(
            (
                self.txt_attn.norm.scales().expand(n_txt, -1, -1),
                self.img_attn.norm.scales().expand(n_img, -1, -1),
            )
        )
        out = attention(*split_heads(qkv, scale, rotary), mask)

        img = torch.addcmul(img, self.img_attn.proj(out[:, n_txt:]), i_gate)
        img = torch.addcmul(img, self.img_mlp(_modulate(img, i_shift2, i_scale2)), i_gate2)
        txt = torch.addcmul(txt, self.txt_attn.proj(out[:, :n_txt]), t_gate)
        txt = torch.addcmul(txt, self.txt_mlp(_modulate(txt, t_shift2, t_scale2)), t_gate2)
        return img, txt


class SingleBlock(nn.Module):
    """Attention and feed-forward in parallel, with fused input and output projections."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        hidden, mlp_hidden = shape.hidden_size, int(shape.hidden_size * shape.mlp_ratio)
        self.heads, self.hidden = shape.num_heads, hidden
        self.linear1 = nn.Linear(hidden, 3 * hidden + mlp_hidden)
        self.linear2 = nn.Linear(hidden + mlp_hidden, hidden)
        self.norm = QKNorm(hidden // shape.num_heads)
        self.modulation = Modulation(hidden, 1)

    def forward(
        self,
        x: Tensor,
        silu_vec: Tensor,
        rotary: Rotary,
        mask: Tensor | None,
        rows: slice | None = None,
    ) -> Tensor:
        """x [B, L, hidden] -> the same, or only its `rows` where nobody reads the others."""
        shift, scale, gate = self.modulation(silu_vec)
        qkv, mlp = self._project_in(_modulate(x, shift, scale), rows)
        q, k, v = split_heads(_by_head(qkv, self.heads), self.norm.scales(), rotary)
        if rows is not None:
            x, q = x[:, rows], q[:, :, rows]
            mask = mask[:, :, rows] if mask is not None and mask.shape[2] > 1 else mask
        out = torch.cat((attention(q, k, v, mask), F.gelu(mlp, approximate="tanh")), dim=-1)
        return torch.addcmul(x, self.linear2(out), gate)

    def _project_in(self, x: Tensor, rows: slice | None) -> tuple[Tensor, Tensor]:
        """q, k, v of all rows, and the feed-forward's input for `rows`."""
        sizes = [3 * self.hidden, self.linear1.out_features - 3 * self.hidden]
        if rows is None or type(self.linear1) is not nn.Linear:  # an adapter cannot be cut in two
            qkv, mlp = torch.split(self.linear1(x), sizes, dim=-1)
            return qkv, mlp if rows is None else mlp[:, rows]
        weights, biases = (
            torch.split(self.linear1.weight, sizes),
            torch.split(self.linear1.bias, sizes),
        )
        # contiguous: PyTorch runs a strided 3-D input as a batched product with copied weights
        read = x[:, rows].contiguous()
        return F.linear(x, weights[0], biases[0]), F.linear(read, weights[1], biases[1])


class LastLayer(nn.Module):
    """AdaLN (chunk order shift, scale: diffusers has them the other way round) and projection."""

    def __init__(self, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, silu_vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation[1](silu_vec)[:, None].chunk(2, dim=-1)
        return self.linear(_modulate(x, shift, scale))  # type: ignore[no-any-return]


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
            attention_mask: True = may be attended; keys [B, L+N], or pairs [B, L+N, L+N].

        Returns:
            [B, target_length, in_channels].
        """
        img, txt, silu_vec, rotary, mask = self._embed(
            tokens, ids, text, pooled, timesteps, guidance, attention_mask
        )
        n_txt = txt.shape[1]
        for block in self.double_blocks:
            img, txt = block(img, txt, silu_vec, rotary, mask)
        if len(self.single_blocks):
            x = torch.cat((txt, img), dim=1)
            for block in self.single_blocks[:-1]:
                x = block(x, silu_vec, rotary, mask)
            rows = slice(n_txt, n_txt + target_length)
            img = self.single_blocks[-1](x, silu_vec, rotary, mask, rows)
        return self.final_layer(img[:, :target_length], silu_vec)  # type: ignore[no-any-return]

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
        attention_mask: Tensor | None = None,
    ) -> list[Tensor]:
        """Image-token states [B, N, hidden] after the blocks `taps`, in the order of `taps`.

        Blocks are numbered through: double blocks first, then single ones. Computation stops
        after the deepest tap. Arguments are those of `forward`.
        """
        total = len(self.double_blocks) + len(self.single_blocks)
        if not taps or min(taps) < 0 or max(taps) >= total:
            raise ValueError(f"taps {tuple(taps)} are not within the model's {total} blocks")
        img, txt, silu_vec, rotary, mask = self._embed(
            tokens, ids, text, pooled, timesteps, guidance, attention_mask
        )
        n_txt, x = txt.shape[1], None
        states: dict[int, Tensor] = {}
        for index in range(max(taps) + 1):
            if index < len(self.double_blocks):
                img, txt = self.double_blocks[index](img, txt, silu_vec, rotary, mask)
            else:
                x = torch.cat((txt, img), dim=1) if x is None else x
                x = self.single_blocks[index - len(self.double_blocks)](x, silu_vec, rotary, mask)
                img = x[:, n_txt:]
            if index in taps:
                states[index] = img
        return [states[tap] for tap in taps]

    def _embed(
        self,
        tokens: Tensor,
        ids: Tensor,
        text: Tensor,
        pooled: Tensor,
        timesteps: Tensor,
        guidance: Tensor | None,
        attention_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Rotary, Tensor | None]:
        """Inputs of the blocks: image and text states, SiLU(vec), rotary table, mask."""
        if (guidance is None) != (self.guidance_in is None):
            has = "needs" if self.guidance_in is not None else "has no"
            raise ValueError(f"this model {has} guidance embedding")
        dtype = self.img_in.weight.dtype
        vec = self.time_in(timestep_embedding(timesteps).to(dtype))
        if self.guidance_in is not None and guidance is not None:
            vec = vec + self.guidance_in(timestep_embedding(guidance).to(dtype))
        vec = vec + self.vector_in(pooled.to(dtype))
        n_txt = text.shape[1]
        ids = F.pad(ids, (0, 0, n_txt, 0))  # text tokens sit at position zero, before the images
        cos, sin = rope(ids, self.shape.axes_dim, self.shape.theta)
        if ids.dim() == 2:
            cos, sin = cos[None], sin[None]
        rotary = Rotary(cos, sin)
        mask = attention_mask
        if mask is not None:
            mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        img, txt = self.img_in(tokens.to(dtype)), self.txt_in(text.to(dtype))
        return img, txt, F.silu(vec), rotary, mask


def check_shape(shape: TransformerShape) -> None:
    """Raise RecipeError where the numbers of a shape do not fit together."""
    if shape.hidden_size % shape.num_heads:
        raise RecipeError(
            f"hidden_size {shape.hidden_size} is not a multiple of num_heads {shape.num_heads}"
        )
    head = shape.hidden_size // shape.num_heads
    if sum(shape.axes_dim) != head or any(d % 2 for d in shape.axes_dim):
        raise RecipeError(f"axes_dim {shape.axes_dim} must be even and sum to the head's {head}")
