"""Measures in networks equal the libraries called directly, with the same weights given to both."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity, normalize
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from transformers import Dinov2Model

from kontext.errors import MetricUnavailable
from kontext.evaluate.measures import MEASURES, Made
from kontext.evaluate.measures.aesthetics import linear_layers
from kontext.evaluate.measures.sets import SETS, open_features
from kontext.evaluate.measures.style import gram_distance
from tests.evaluate.measures import made
from tests.evaluate.test_parity import pictures

OUTPUT, CONTEXT, TARGET = pictures(3, (64, 48))
EDIT = Made(OUTPUT, CONTEXT, TARGET, caption="a red door", context_caption="a blue door")
NAMES = {
    "lpips": ("lpips", "lpips_input"),
    "clip": ("clip_i", "clip_input", "clip_t", "clip_direction"),
    "dino": ("dino", "dino_input"),
    "vgg16": ("style_vgg",),
    "aesthetic": ("aesthetic",),
    "auraface": ("identity", "faces_found"),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for make in (made.lpips, made.clip, made.dino, made.aesthetic):
        make(folder)
    return folder


@pytest.fixture(autouse=True)
def _given(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KONTEXT_MODELS", str(weights))
    yield


def value(name: str, edit: Made = EDIT) -> float | None:
    return MEASURES[name].open().value(edit)


def test_lpips_is_torchmetrics(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.hub.get_dir()
    ours = value("lpips"), value("lpips_input")
    assert torch.hub.get_dir() == before
    monkeypatch.setattr(torch.hub, "_hub_dir", str(weights / "lpips"))
    a, b, c = (
        torch.from_numpy(p).permute(2, 0, 1)[None] / 127.5 - 1 for p in (OUTPUT, TARGET, CONTEXT)
    )
    theirs = [
        float(learned_perceptual_image_patch_similarity(a, other, net_type="squeeze"))
        for other in (b, c)
    ]
    assert ours == pytest.approx(theirs, abs=1e-5) and min(theirs) > 0
    assert value("lpips", Made(TARGET, target=TARGET)) == pytest.approx(0, abs=1e-6)
    card = MEASURES["lpips"].open().card
    assert card.version.startswith("torchmetrics ") and "squeezenet1_1" in card.weights


def test_clip_scores_are_open_clips(weights: Path) -> None:
    where = f"local-dir:{weights / 'clip'}"
    model, _, prepare = open_clip.create_model_and_transforms(where)
    model.eval()
    shown = torch.stack([prepare(Image.fromarray(p)) for p in (OUTPUT, CONTEXT, TARGET)])
    said = open_clip.get_tokenizer(where)([EDIT.caption, EDIT.context_caption])
    with torch.no_grad():
        output, context, target = model.encode_image(shown, normalize=True)
        caption, before = model.encode_text(said, normalize=True)
    expected = {
        "clip_i": output @ target,
        "clip_input": output @ context,
        "clip_t": output @ caption,
        "clip_direction": cosine_similarity(output - context, caption - before, dim=0),
    }
    for name, theirs in expected.items():
        assert value(name) == pytest.approx(float(theirs), abs=1e-5), name
    assert value("clip_t", Made(OUTPUT)) is None, "no caption"
    still = Made(CONTEXT, CONTEXT, caption="a red door", context_caption="a blue door")
    assert value("clip_direction", still) == 0
    card = MEASURES["clip_i"].open().card
    assert card.version.startswith("open_clip_torch ") and card.range.startswith("mean [0.48")


def test_dino_is_transformers_class_token(weights: Path) -> None:
    model = Dinov2Model.from_pretrained(weights / "dino").eval()
    shown = []
    for picture in (OUTPUT, CONTEXT, TARGET):
        image = Image.fromarray(picture).resize((256, 256 * 64 // 48), Image.Resampling.BICUBIC)
        top = round((image.height - 224) / 2)
        pixels = np.asarray(image.crop((16, top, 240, top + 224)), np.float32) / 255
        scaled = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        shown.append(torch.from_numpy(scaled.astype(np.float32)).permute(2, 0, 1))
    with torch.no_grad():
        output, context, target = model(torch.stack(shown)).last_hidden_state[:, 0]
    assert value("dino") == pytest.approx(float(cosine_similarity(output, target, dim=0)), abs=1e-4)
    theirs = float(cosine_similarity(output, context, dim=0))
    assert value("dino_input") == pytest.approx(theirs, abs=1e-4)


def test_aesthetics_are_linear_layers_of_the_normalised_embedding(weights: Path) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(12, 5), torch.nn.Linear(5, 1))
    state = torch.load(weights / "aesthetic" / "linearMSE.pth", weights_only=True)
    layers.load_state_dict(
        {k.replace("layers.", "").replace("2.", "1."): v for k, v in state.items()}
    )
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{weights / 'clip'}")
    with torch.no_grad():
        own = model.eval().encode_image(prepare(Image.fromarray(OUTPUT))[None])
        theirs = float(layers(normalize(own)))
    assert value("aesthetic") == pytest.approx(theirs, abs=1e-5)


def test_the_style_of_a_texture_is_nearer_to_itself_moved_than_to_another() -> None:
    """No place counts, only what occurs together; in EfficientNet-Lite0's own weights."""
    grain = pictures(1, (96, 96), seed=5)[0]
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::6] = (250, 200, 30)
    style = MEASURES["style"].open()
    same, moved, other = (
        style.value(Made(made_of, grain)) for made_of in (grain, np.roll(grain, 40, 1), stripes)
    )
    assert same == pytest.approx(0, abs=1e-12)
    assert moved is not None and other is not None and moved < 0.25 * other < 1
    maps = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # two channels, two places
    twice = gram_distance([maps], [2 * maps])
    assert twice == pytest.approx(9 / 17), "|G - 4 G|² ÷ (|G|² + |4 G|²)"


def test_inceptions_features_are_torch_fidelitys(tmp_path: Path, monkeypatch) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = made.inception(tmp_path)
    monkeypatch.setenv("KONTEXT_MODELS", str(tmp_path))
    embed, card = open_features()
    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], str(path))
    (features,) = theirs(torch.from_numpy(OUTPUT).permute(2, 0, 1)[None])
    assert embed(OUTPUT) == pytest.approx(features[0].numpy(), abs=1e-5)
    assert "weights.pth" in card.weights and "299" in card.resize


@pytest.mark.parametrize("folder", NAMES)
def test_missing_weights_are_a_reason_never_a_number(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_MODELS", str(tmp_path))
    for name in NAMES[folder]:
        with pytest.raises(MetricUnavailable, match=rf"no weights: .* '{folder}'|it needs insight"):
            MEASURES[name].open()
    monkeypatch.delenv("KONTEXT_MODELS")
    with pytest.raises(MetricUnavailable):
        MEASURES[NAMES[folder][0]].open()


def test_half_of_the_weights_are_no_random_network(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip and transformers fill what a file lacks with random numbers; here that ends."""
    monkeypatch.setenv("KONTEXT_MODELS", str(tmp_path))
    made.clip(tmp_path, weights=False)
    with pytest.raises(MetricUnavailable, match="no CLIP that open_clip reads"):
        MEASURES["clip_i"].open()
    shutil.copytree(weights / "dino", tmp_path / "dino")
    config = json.loads((tmp_path / "dino" / "config.json").read_text())
    (tmp_path / "dino" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(MetricUnavailable, match="not whole"):
        MEASURES["dino"].open()
    other = tmp_path / "lpips" / "checkpoints" / "alexnet-mine.pth"
    other.parent.mkdir(parents=True)
    torch.save({}, other)
    with pytest.raises(MetricUnavailable, match="no trunk of LPIPS"):
        MEASURES["lpips"].open()
    other.rename(other.with_name("squeezenet1_1-b8a52dc0.pth"))
    with pytest.raises(MetricUnavailable, match="is not torchvision's"):
        MEASURES["lpips"].open()
    for state in ({"a.weight": torch.zeros(3, 4), "a.bias": torch.zeros(3)}, {}):
        path = tmp_path / f"{len(state)}.pth"
        torch.save(state, path)
        with pytest.raises(MetricUnavailable, match="no predictor"):
            linear_layers(path)


def test_a_predictor_of_another_clip_is_refused(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_MODELS", str(tmp_path))
    shutil.copytree(weights / "clip", tmp_path / "clip")
    made.aesthetic(tmp_path, width=768)
    with pytest.raises(MetricUnavailable, match="of 768 numbers, those of 'clip' have 12"):
        MEASURES["aesthetic"].open()


def test_few_pictures_have_no_distance_of_distributions() -> None:
    few = np.zeros((49, 3), np.float32)
    with pytest.raises(MetricUnavailable, match="50 pictures or more"):
        SETS["kid"].measure(few, few, ["a"] * 49)
    with pytest.raises(MetricUnavailable, match="2,048 pictures or more"):
        SETS["fid"].measure(few, few, ["a"] * 49)
