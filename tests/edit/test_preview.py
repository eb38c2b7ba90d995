from pathlib import Path

import numpy as np
import pytest
import torch

from kontext.data import contact_sheet
from kontext.data.encoded.latents import load_pairs
from kontext.edit.preview import check_prompts, preview_prompts
from kontext.errors import CanaryError, GateError
from kontext.models.flux.transformer import FluxTransformer
from kontext.safety.wording.classifier import TextClassifier
from tests.stages.encoded_run import SHAPE, encoded_run


def test_prompts_of_a_recipe_meet_what_words_of_an_edit_do(monkeypatch: pytest.MonkeyPatch) -> None:
    check_prompts(["a lamp on the table"])
    with pytest.raises(GateError, match=r"prompt 2 is refused \(text_undress\)"):
        check_prompts(["a lamp", "undress her"])
    monkeypatch.setattr(TextClassifier, "scores", lambda self, given: np.zeros(len(given)))
    check_prompts([])
    with pytest.raises(CanaryError, match="the text classifier stopped 0 of"):
        check_prompts(["a lamp on the table"])


def test_prompts_are_drawn_with_none_one_and_several_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = encoded_run(tmp_path)
    data = load_pairs(harness.inputs["encode"], "val", torch.device("cpu"))
    ctx = harness.context("finetune", harness.store.writer("finetune", "some"))
    drawn: list[list[int]] = []

    def sheet(rows: list[list[np.ndarray]], **_: object) -> bytes:
        drawn.extend([len(row) for row in rows])
        return b""

    monkeypatch.setattr(contact_sheet, "contact_sheet", sheet)
    preview_prompts(ctx, FluxTransformer(SHAPE), data, {"a cat": 1, "a dog": 2}, steps=1)
    # a drawing; a picture and its edit; a picture, what it refers to, and the edit
    assert drawn == [1 + 2 + 3] * 2
