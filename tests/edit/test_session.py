"""Sessions and masks, on an editor whose velocity leads exactly to the context's latents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kontext.edit.canvas import composite, latent_mask
from kontext.edit.edit_model import EditModel
from kontext.edit.euler import Keep, Prompt, noise, sample
from kontext.edit.request import Edit, Options
from kontext.edit.turns import Turns
from kontext.edit.weights.folder import LoadedModel, ModelSettings
from kontext.errors import KontextError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.text.encoders import Encoded
from tests.models.shapes import AE, FLOW


class Identity(nn.Module):
    """v = (x - context) / t: Euler ends in the context, whatever the instruction."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.img_in = FLOW, nn.Linear(16, 1)

    def forward(self, tokens: Tensor, ids: Tensor, *args: Any, target_length: int, **_: Any) -> Any:
        target, context = tokens.split([target_length, tokens.shape[1] - target_length], dim=1)
        return (target - context[:, :target_length]) / args[2][:, None, None]


class Words:
    """Zero embeddings, one token a word."""

    digest, dim, pooled_dim = "words", 10, 6

    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        ones = torch.ones(len(texts), length, dtype=torch.bool)
        return torch.zeros(len(texts), length, 10), ones, torch.zeros(len(texts), 6)

    def count(self, text: str) -> int:
        return len(text.split())


@pytest.fixture
def editor() -> EditModel:
    torch.manual_seed(0)
    settings = ModelSettings(name="identity", text_length=5, resolution=64, steps=2)
    ae = Autoencoder(AE, scale=0.8, shift=0.1).requires_grad_(False).eval()
    model = LoadedModel(Identity(), ae, settings, "0" * 64)  # type: ignore[arg-type]
    return EditModel(model, Words(), autocast=False)


def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def test_four_turns_drift_less_than_encoding_each_result_again(editor: EditModel) -> None:
    session = Turns(editor, photo())
    once = again = editor.edit([photo()], "keep it")
    for number in range(4):
        session.turn("keep it", seed=number)
        again = editor.edit([photo() if number == 0 else again], "keep it", seed=number)

    def drift(image: np.ndarray) -> float:
        return float(np.abs(image.astype(int) - once).mean())

    assert drift(session.image) <= 0.1  # rounding only
    assert drift(again) > 1.0
    assert session.turns == ("keep it",) * 4


def test_kept_detail_makes_the_edit_that_changes_nothing_the_picture_itself(
    editor: EditModel,
) -> None:
    def far(image: np.ndarray) -> int:
        return int(np.abs(image.astype(int) - photo()).max())

    assert far(editor.edit([photo()], "keep it")) > 20  # this autoencoder is untrained
    assert far(editor.edit([photo()], "keep it", keep_detail=True)) <= 1
    session = Turns(editor, photo())
    for number in range(2):
        session.turn("keep it", Options(keep_detail=True), seed=number)
    assert far(session.image) <= 1


def test_detail_is_kept_where_the_model_says_so(editor: EditModel) -> None:
    asked = editor.edit([photo()], "keep it", keep_detail=True)
    plain = editor.edit([photo()], "keep it")
    editor.settings = editor.settings.model_copy(update={"keep_detail": True})
    assert np.array_equal(editor.edit([photo()], "keep it"), asked)
    assert np.array_equal(editor.edit([photo()], "keep it", keep_detail=False), plain)
    assert not np.array_equal(asked, plain)


def test_a_turn_that_fails_is_not_taken(editor: EditModel) -> None:
    session = Turns(editor, photo())
    session.turn("one")
    before = session.image
    with pytest.raises(KontextError, match="6 tokens and model 'identity' reads 5"):
        session.turn("far too many words for it")
    with pytest.raises(KontextError, match="mask"):
        session.turn("two", mask=np.ones((3, 3), bool))
    assert session.turns == ("one",)
    assert session.image is before


def test_masks_leave_the_outside_alone_and_fade_in(editor: EditModel) -> None:
    mask = np.zeros((64, 64), bool)
    mask[20:44, 10:50] = True
    session = Turns(editor, photo())
    out = session.turn("keep it", mask=mask)
    assert np.array_equal(out[~mask], photo()[~mask])
    assert not np.array_equal(out[mask], photo()[mask])
    before, after = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    faded = composite(before, after, mask, feather=4)[..., 0]
    assert faded[32, 8:16].tolist() == [0, 0, 50, 100, 150, 200, 200, 200]
    whole = composite(before, after, np.ones((64, 64), bool), feather=4)
    assert (whole == 200).all(), "the image's own border is no edge of the mask"


def test_turns_keep_the_size_of_the_picture_with_and_without_a_mask(editor: EditModel) -> None:
    wide = photo()[:50].repeat(2, axis=1)
    mask = np.zeros(wide.shape[:2], bool)
    mask[10:40, 30:90] = True
    for given in (None, mask):
        session = Turns(editor, wide)
        for number in range(2):
            out = session.turn("keep it", seed=number, mask=given)
            assert out.shape == wide.shape
        if given is not None:
            assert np.array_equal(out[~mask], wide[~mask])


def test_masks_that_do_not_fit_are_refused(editor: EditModel) -> None:
    for mask, line in (
        (np.zeros((64, 64), bool), "empty"),
        (np.ones((64, 32), bool), r"mask \(32x64\) must have the size of the image \(64x64\)"),
    ):
        with pytest.raises(KontextError, match=line):
            editor.edit([photo()], "x", mask=mask)
    with pytest.raises(KontextError, match="needs an image"):
        editor.edit([], "x", mask=np.ones((64, 64), bool))


def test_sampling_keeps_latents_outside_the_free_part(editor: EditModel) -> None:
    free = latent_mask(np.arange(64)[None].repeat(64, 0) >= 32, (64, 64), False, 8)
    assert free[0, 0, 0].tolist() == [False] * 4 + [True] * 4
    start, kept = noise(0, [0], (4, 8, 8)), torch.full((1, 4, 8, 8), 3.0)
    prompt = Prompt(torch.zeros(1, 2, 10), torch.zeros(1, 6))
    out = sample(
        editor.model.transformer,
        start,
        prompt,
        [torch.zeros(1, 4, 8, 8)],
        steps=3,
        keep=Keep(kept, free),
    )
    assert torch.equal(out[..., :4], kept[..., :4])
    assert out[..., 4:].abs().max() < 1e-5


def test_batches_and_seeds_give_each_edit_its_own_result(editor: EditModel) -> None:
    other = 255 - photo()
    edits = [Edit([photo()], "x", 1), Edit([other], "y", 2), Edit([photo(), other], "z", 1)]
    steps: list[tuple[int, int]] = []
    together = editor.edit_many(edits, batch=2, on_step=lambda *done: steps.append(done))
    for edit, made in zip(edits, together, strict=True):
        alone = editor.edit(edit.images, edit.instruction, seed=edit.seed)
        assert np.abs(made.astype(int) - alone).max() <= 1
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
