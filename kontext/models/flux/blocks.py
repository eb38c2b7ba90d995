"""The blocks of FLUX.1's transformer, under BFL's parameter names.

A block knows its tokens' noise levels (`Conditioning`) and which attend to which
(`AttentionPattern`), and nothing of contexts or caches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.models.flux.heads import EPS, Rotary, split_heads
from kontext.models.flux.layout import AttentionPattern, Conditioning, KeysValues
from schemas.sections.models import TransformerShape


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
    """SiLU(vec) -> `multiplier` x (shift, scale, gate) of [B, 1 or L, hidden] each."""

    def __init__(self, hidden: int, multiplier: int) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.lin = nn.Linear(hidden, multiplier * 3 * hidden)

    def forward(self, conditioning: Conditioning) -> tuple[Tensor, ...]:
        """shift, scale and gate, `multiplier` times, each [B, 1 or L, hidden]."""
        made = conditioning.per_token(self.lin(conditioning.silu_vec))
        return made.chunk(self.multiplier * 3, dim=-1)


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
        self,
        img: Tensor,
        txt: Tensor,
        conditioning: Conditioning,
        rotary: Rotary,
        pattern: AttentionPattern,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, Tensor]:
        """img [B, N, hidden], txt [B, L, hidden] -> the same. `past` is seen after all others."""
        n_txt, n_img = txt.shape[1], img.shape[1]
        i_shift, i_scale, i_gate, i_shift2, i_scale2, i_gate2 = self.img_mod(
            conditioning.of(slice(n_txt, None))
        )
        t_shift, t_scale, t_gate, t_shift2, t_scale2, t_gate2 = self.txt_mod(
            conditioning.of(slice(n_txt))
        )
        txt_qkv = self.txt_attn.qkv(_modulate(txt, t_shift, t_scale))
        img_qkv = self.img_attn.qkv(_modulate(img, i_shift, i_scale))
        qkv = _by_head(torch.cat((txt_qkv, img_qkv), dim=1), self.heads)
        scale = torch.cat(
            (
                self.txt_attn.norm.scales().expand(n_txt, -1, -1),
                self.img_attn.norm.scales().expand(n_img, -1, -1),
            )
        )
        out = pattern.attend(*split_heads(qkv, scale, rotary), past)

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
        conditioning: Conditioning,
        rotary: Rotary,
        pattern: AttentionPattern,
        past: KeysValues | None = None,
        rows: slice | None = None,
    ) -> Tensor:
        """x [B, L, hidden] -> the same, or only its `rows` where nobody reads the others.

        `pattern` is that of the rows that come out. `past` is seen after all others.
        """
        shift, scale, gate = self.modulation(conditioning)
        qkv, mlp = self._project_in(_modulate(x, shift, scale), rows)
        q, k, v = split_heads(_by_head(qkv, self.heads), self.norm.scales(), rotary)
        if rows is not None:
            x, q = x[:, rows], q[:, :, rows]
            gate = gate if conditioning.token is None else gate[:, rows]
        seen = pattern.attend(q, k, v, past)
        out = torch.cat((seen, F.gelu(mlp, approximate="tanh")), dim=-1)
        return torch.addcmul(x, self.linear2(out), gate)

    def _project_in(self, x: Tensor, rows: slice | None) -> tuple[Tensor, Tensor]:
        """q, k, v of all rows, and the feed-forward's input for `rows`."""
        sizes = [3 * self.hidden, self.linear1.out_features - 3 * self.hidden]
        if rows is None or type(self.linear1) is not nn.Linear:  # an adapter cannot be cut in two
            qkv, mlp = torch.split(self.linear1(x), sizes, dim=-1)
            return qkv, mlp if rows is None else mlp[:, rows]
        weights = torch.split(self.linear1.weight, sizes)
        biases = torch.split(self.linear1.bias, sizes)
        # contiguous: PyTorch runs a strided 3-D input as a batched product with copied weights
        read = x[:, rows].contiguous()
        return F.linear(x, weights[0], biases[0]), F.linear(read, weights[1], biases[1])


class LastLayer(nn.Module):
    """AdaLN (chunk order shift, scale: diffusers has them the other way round) and projection."""

    def __init__(self, hidden: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """x [B, N, hidden] -> [B, N, out_channels]."""
        modulation = conditioning.per_token(self.adaLN_modulation[1](conditioning.silu_vec))
        shift, scale = modulation.chunk(2, dim=-1)
        return self.linear(_modulate(x, shift, scale))  # type: ignore[no-any-return]
