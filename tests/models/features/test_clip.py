import json

import numpy as np
import open_clip
import pytest
import torch

from kontext.errors import WeightsError
from kontext.models.features import clip_train
from kontext.models.features.clip import (
    ClipShape,
    SmallClip,
    SmallScorer,
    image_features,
    load_scorer,
    pair_scores,
)
from kontext.models.features.clip_train import ClipData, retrieval, train_clip
from kontext.models.features.efficientnet import load_features
from kontext.models.text.encoders import load_text_encoder

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "black": (0, 0, 0)}


def swatches(count: int, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Noisy images of one colour with its name."""
    rng = np.random.default_rng(seed)
    names = [list(COLOURS)[i % len(COLOURS)] for i in range(count)]
    base = np.array([COLOURS[name] for name in names])[:, None, None]
    noise = rng.integers(-25, 25, (count, 32, 32, 3))
    return (base + noise).clip(0, 255).astype(np.uint8), names


@pytest.fixture(scope="module")
def towers():
    return load_features(), load_text_encoder("minilm")


@pytest.fixture(scope="module")
def trained(towers) -> SmallScorer:
    net, text = towers
    images, names = swatches(24)
    data = ClipData(
        image_features(net, images),
        text.encode(list(COLOURS), 8)[2],
        [np.array([list(COLOURS).index(name)]) for name in names],
    )
    model, losses = train_clip(data, steps=40, batch=4, seed=0)
    assert losses[-1] < 0.5 < losses[0]
    return SmallScorer(model, net, text)


def test_it_learns_to_retrieve_words_for_unseen_images(trained):
    images, names = swatches(12, seed=1)
    vectors = trained.text_embeddings(list(COLOURS))
    rows = {name: row for row, name in enumerate(COLOURS)}
    found = retrieval(trained.image_embeddings(images), names, rows, vectors)
    assert found["r_at_1"] > 0.8 and found["candidates"] == 4
    shuffled = retrieval(trained.image_embeddings(images), names[1:] + names[:1], rows, vectors)
    assert shuffled["r_at_1"] < 0.3


@pytest.mark.parametrize("block", [1, 30, 1 << 20])
def test_ranks_are_those_of_sorted_scores(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_train, "_SCORES", block)
    draw = np.random.default_rng(0)
    images, texts = (draw.integers(-2, 3, (n, 3)).astype(np.float32) for n in (40, 9))  # with ties
    text_of = {f"t{n}": n for n in range(9)}
    names = [f"t{n}" for n in draw.integers(0, 9, 40)]
    order = np.argsort(-(images @ texts.T), axis=1, kind="stable")
    rank = (order == np.array([text_of[name] for name in names])[:, None]).argmax(1)
    found = retrieval(images, names, text_of, texts)
    assert found == {"r_at_1": (rank < 1).mean(), "r_at_5": (rank < 5).mean(), "candidates": 9.0}


def test_some_rows_train_what_a_table_of_them_trains() -> None:
    images, texts, rows = torch.randn(8, 20), torch.randn(4, 10), np.array([1, 2, 5, 7])
    texts_of = [np.array([i % 4]) for i in range(4)]
    some, _ = train_clip(ClipData(images, texts, texts_of, rows), steps=3, batch=4, seed=3)
    copied = ClipData(images[torch.from_numpy(rows)], texts, texts_of)
    other, _ = train_clip(copied, steps=3, batch=4, seed=3)
    assert torch.equal(some.visual[1].weight, other.visual[1].weight)


def test_training_is_deterministic_and_leaves_the_global_generator_alone(towers):
    data = ClipData(torch.randn(8, 20), torch.randn(4, 10), [np.array([i % 4]) for i in range(8)])
    state = torch.random.get_rng_state()
    one, _ = train_clip(data, steps=3, batch=4, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(5)
    again, _ = train_clip(data, steps=3, batch=4, seed=3)
    other, _ = train_clip(data, steps=3, batch=4, seed=4)
    assert torch.equal(one.visual[1].weight, again.visual[1].weight)
    assert not torch.equal(one.visual[1].weight, other.visual[1].weight)


class Folder:
    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return self.folder / name


def test_save_and_load_give_the_same_scores(trained, towers, tmp_path):
    trained.save(tmp_path)
    net, text = towers
    images, _ = swatches(4)
    loaded = load_scorer(Folder(tmp_path), net, text)
    assert np.array_equal(loaded.image_embeddings(images), trained.image_embeddings(images))
    assert np.array_equal(loaded.text_embeddings(["red"]), trained.text_embeddings(["red"]))
    first = (tmp_path / "clip.safetensors").read_bytes()
    trained.save(tmp_path)
    assert (tmp_path / "clip.safetensors").read_bytes() == first

    config = json.loads((tmp_path / "clip.json").read_text())
    (tmp_path / "clip.json").write_text(json.dumps({**config, "text_tower": "other"}))
    with pytest.raises(WeightsError, match="text_tower"):
        load_scorer(Folder(tmp_path), net, text)
    with pytest.raises(WeightsError, match="no small CLIP"):
        load_scorer(Folder(tmp_path / "nowhere"), net, text)


def test_open_clips_loss_takes_what_the_model_returns():
    model = SmallClip(ClipShape(image_dim=6, text_dim=5, hidden=8, embed_dim=4))
    out = model(torch.randn(3, 6), torch.randn(3, 5))
    assert open_clip.ClipLoss()(**out).item() > 0
    assert torch.allclose(out["image_features"].norm(dim=1), torch.ones(3))


def test_pair_scores_are_cosines():
    east, north = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    scores = pair_scores(east, north, east, north)
    assert scores.clip_t[0] == 1 and scores.clip_i[0] == 0
    assert scores.clip_dir[0] == pytest.approx(1)
    assert pair_scores(east, north, north, east).clip_dir[0] == pytest.approx(-1)
    assert pair_scores(east, east, north, east).clip_dir[0] == 0  # the image does not move
