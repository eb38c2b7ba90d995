"""The heads of LADD: small discriminators on the frozen teacher's own features."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.models.flux.transformer import timestep_embedding


def _conv(in_channels: int, out_channels: int, kernel: int, std: float = 0.02) -> nn.Conv2d:
    """A convolution that keeps the grid's size."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.normal_(conv.weight, std=std)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class FeatureHead(nn.Module):
    """A small 2-D conv head on one block's states, with FiLM and projection conditioning."""

    def __init__(self, hidden: int, cond: int, width: int) -> None:
        super().__init__()
        self.reduce = _conv(hidden, width, 1, std=hidden**-0.5)
        self.film = nn.Linear(cond, 2 * width)
        self.conv = _conv(width, width, 3)
        self.norm = nn.GroupNorm(max(1, width // 16), width)
        self.logit = _conv(width, 1, 1)
        self.project = nn.Linear(cond, width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, states: Tensor, cond: Tensor) -> Tensor:
        """states [B, hidden, h, w], cond [B, cond] -> logits [B, h*w]."""
        x = self.reduce(states)
        scale, shift = self.film(cond)[:, :, None, None].chunk(2, dim=1)
        x = F.leaky_relu(torch.addcmul(shift, x, 1 + scale), 0.2)
        x = x + F.leaky_relu(self.norm(self.conv(x)), 0.2)
        match = (x * self.project(cond)[:, :, None, None]).mean(dim=1, keepdim=True)
        return (self.logit(x) + match).flatten(1)  # type: ignore[no-any-return]


class LaddHeads(nn.Module):
    """Trainable heads on a frozen teacher's features: one independent head per tapped block.

    Each sees the target's tokens as their 2-D grid, and is conditioned on the renoise level, the
    pooled text and the mean of that block's context tokens (zeros where there is no context), so
    that it can judge faithfulness to instruction and context, not only realism.

    Args:
        hidden: width of the teacher.
        taps: the teacher's blocks that are tapped; only their number matters here.
        vec_dim: width of the pooled text.
        width: channels inside a head.
    """

    def __init__(self, hidden: int, taps: Sequence[int], vec_dim: int, width: int = 128) -> None:
        super().__init__()
        self.hidden, self.taps = hidden, tuple(taps)
        self.level = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(vec_dim, width)
        self.context = nn.ModuleList(nn.Linear(hidden, width, bias=False) for _ in self.taps)
        self.heads = nn.ModuleList(FeatureHead(hidden, width, width) for _ in self.taps)

    def forward(
        self, features: Sequence[Tensor], grid: tuple[int, int], t_hat: Tensor, pooled: Tensor
    ) -> Tensor:
        """Logits [B, taps * h * w], one per tap and target token.

        Args:
            features: per tap, image-token states [B, N, hidden], [target | contexts].
            grid: the target's (h, w) in tokens.
            t_hat: renoise levels [B] in [0, 1].
            pooled: pooled text [B, vec_dim].
        """
        if len(features) != len(self.taps):
            raise ValueError(f"{len(features)} feature maps for {len(self.taps)} heads")
        h, w = grid
        dtype = self.pooled.weight.dtype
        shared = self.level(timestep_embedding(t_hat.float()).to(dtype)) + self.pooled(
            pooled.to(dtype)
        )
        logits = []
        for states, context, head in zip(features, self.context, self.heads, strict=True):
            x = F.layer_norm(states, (self.hidden,), eps=1e-6).to(dtype)
            cond = shared
            if x.shape[1] > h * w:
                cond = cond + context(x[:, h * w :].mean(dim=1))
            image = x[:, : h * w].transpose(1, 2).reshape(len(x), self.hidden, h, w)
            logits.append(head(image, F.silu(cond)))
        return torch.cat(logits, dim=1)
