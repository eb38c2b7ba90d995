from pathlib import Path

import numpy as np
import pytest
import torch

from kontext.data import contact_sheet
from kontext.data.encoded.latents import load_pairs
from kontext.edit import preview
from kontext.edit.preview import check_prompts, preview_edits, preview_prompts
from kontext.errors import CanaryError, GateError
from kontext.models.flux.transformer import FluxTransformer
from kontext.safety.wording.classifier import TextClassifier
from tests.stages.encoded_run import SHAPE, encoded_run


def test_prompts_of_a_recipe_meet_what_words_of_an_edit_do(monkeypatch: pytest.MonkeyPatch) -> None:
    check_prompts(["a lamp on the table"])
    with pytest.raises(GateError, match=r"prompt 2 is refused \(text_undress\)"):
        check_prompts(["a lamp", "undress her"])
    monkeypatch.setattr(
        TextClassifier, "scores", lambda self, given, whole=False: np.zeros(len(given))
    )
    check_prompts([])
    with pytest.raises(CanaryError, match="the text classifier stopped 0 of"):
        check_prompts(["a lamp on the table"])


def test_pictures_are_shown_as_large_as_they_are_and_at_the_guidance_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = encoded_run(tmp_path)
    data = load_pairs(harness.inputs["encode"], "val", torch.device("cpu"))
    codec, told = harness.inputs["train-autoencoder"], set[float]()
    model = FluxTransformer(SHAPE.model_copy(update={"guidance_embed": True}))
    model.register_forward_pre_hook(
        lambda _, __, named: told.update(named["guidance"].tolist()), with_kwargs=True
    )

    def sheet(_: object, **named: object) -> bytes:
        return str(named["cell"]).encode()

    monkeypatch.setattr(contact_sheet, "contact_sheet", sheet)
    monkeypatch.setattr(preview, "_SMALLEST", 8)
    assert preview_edits(codec, model, data, steps=1, guidance=2.5) == b"64"  # 32 x 64 pixels
    assert told == {2.5}
    monkeypatch.setattr(preview, "_LARGEST", 48)
    assert preview_edits(codec, model, data, steps=1) == b"48"


def test_prompts_are_drawn_with_none_one_and_several_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = encoded_run(tmp_path)
    data = load_pairs(harness.inputs["encode"], "val", torch.device("cpu"))
    codec = harness.inputs["train-autoencoder"]
    drawn: list[list[int]] = []

    def sheet(rows: list[list[np.ndarray]], **_: object) -> bytes:
        drawn.extend([len(row) for row in rows])
        return b""

    monkeypatch.setattr(contact_sheet, "contact_sheet", sheet)
    preview_prompts(codec, FluxTransformer(SHAPE), data, {"a cat": 1, "a dog": 2}, steps=1)
    # a drawing; a picture and its edit; a picture, what it refers to, and the edit
    assert drawn == [1 + 2 + 3] * 2
