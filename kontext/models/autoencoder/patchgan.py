"""PatchGAN: the discriminator that the autoencoder trains against."""

from torch import Tensor, nn

_LAYERS = 3  # that halve the side
SMALLEST = 3 * 2**_LAYERS  # pixels a side: two more layers take one off each


class PatchDiscriminator(nn.Module):
    """pix2pix's NLayer discriminator: one logit per overlapping patch.

    GroupNorm replaces BatchNorm, whose statistics would differ between ranks and between real and
    generated batches.
    """

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = 3
        for i in range(_LAYERS + 1):
            out, stride = channels * min(2**i, 8), 2 if i < _LAYERS else 1
            blocks.append(_conv(width, out, stride))
            if i > 0:
                blocks.append(nn.GroupNorm(min(32, out // 4), out))
            blocks.append(nn.LeakyReLU(0.2))
            width = out
        blocks.append(_conv(width, 1, 1))
        self.main = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] in [-1, 1] -> logits [B, 1, h, w]."""
        return self.main(images)  # type: ignore[no-any-return]


def _conv(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, 4, stride, 1)
    nn.init.normal_(conv.weight, std=0.02)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
