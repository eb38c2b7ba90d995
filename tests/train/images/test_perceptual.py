from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kontext.errors import RecipeError, WeightsError
from kontext.models.features.efficientnet import FeatureNet
from kontext.train.images.perceptual import (
    VggFeatures,
    file_digest,
    load_backbone,
    unloaded_backbone,
)
from schemas.sections.training import AutoencoderConfig

CPU = torch.device("cpu")


def test_the_default_ships_with_a_package() -> None:
    assert isinstance(load_backbone(AutoencoderConfig(), CPU), FeatureNet)
    assert file_digest(AutoencoderConfig()) == ""


def test_vgg_is_torchvisions() -> None:
    vgg16 = pytest.importorskip("torchvision.models").vgg16
    theirs, ours = vgg16(weights=None).eval(), VggFeatures().eval()
    own = {k: v for k, v in theirs.state_dict().items() if k.startswith("features.")}
    ours.load_state_dict(own)
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, found = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1), []
    with torch.no_grad():
        for index, layer in enumerate(theirs.features):
            x = layer(x)
            if index in (3, 8, 15, 22, 29):  # relu1_2 ... relu5_3
                found.append(x)
        maps = ours.maps(images)
    for one, other in zip(maps, found, strict=True):
        torch.testing.assert_close(one, other)
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4, 2]
    assert torch.equal(ours.maps(images, (1, 3))[1], maps[3])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_is_loaded_frozen_and_named_by_its_digest(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"vgg{suffix}", VggFeatures().state_dict()
    if suffix == ".pth":
        torch.save({**state, "classifier.0.weight": torch.zeros(1)}, path)
    else:
        save_file(state, path)
    config = AutoencoderConfig(perceptual="vgg16", perceptual_file=str(path))
    net = load_backbone(config, CPU)
    assert net.digest == file_digest(config)[:16]
    assert not any(p.requires_grad for p in net.parameters())
    assert isinstance(unloaded_backbone(config), VggFeatures)


def test_no_file_or_another_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs perceptual_file"):
        load_backbone(AutoencoderConfig(perceptual="vgg16"), CPU)
    save_file({"features.0.weight": torch.zeros(2)}, tmp_path / "odd.safetensors")
    config = AutoencoderConfig(
        perceptual="vgg16", perceptual_file=str(tmp_path / "odd.safetensors")
    )
    with pytest.raises(WeightsError, match=r"odd\.safetensors is not torchvision's vgg16"):
        load_backbone(config, CPU)
