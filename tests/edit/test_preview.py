import numpy as np
import pytest

from kontext.edit.preview import check_prompts
from kontext.errors import CanaryError, GateError
from kontext.safety.wording.classifier import TextClassifier


def test_prompts_of_a_recipe_meet_what_words_of_an_edit_do(monkeypatch: pytest.MonkeyPatch) -> None:
    check_prompts(["a lamp on the table"])
    with pytest.raises(GateError, match=r"prompt 2 is refused \(text_undress\)"):
        check_prompts(["a lamp", "undress her"])
    monkeypatch.setattr(TextClassifier, "scores", lambda self, given: np.zeros(len(given)))
    check_prompts([])
    with pytest.raises(CanaryError, match="the text classifier stopped 0 of"):
        check_prompts(["a lamp on the table"])
