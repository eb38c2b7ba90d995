"""The text classifier: a small network over what the words of a text mean.

It is asked beside the rules, of every text but names and labels (`kontext.safety.texts`). Its
weights are `weights.safetensors`; `python -m kontext.safety.wording.train` makes them.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from kontext.errors import GateError
from kontext.safety.text import spellings
from kontext.safety.wording.meanings import WIDTH, mended, readings

DATA_FILES = ("weights.safetensors",)  # part of the code that decides
# words, and words from the start of one to that of the next; the short ones for what is longer than
# a caption
_WIDE, _NARROW, _LONG = (24, 12), (11, 4), 14
WINDOWS = (_WIDE[0], _NARROW[0])  # words
_LONGEST = 48  # characters of a word: scripts without spaces are cut
Values = NDArray[np.float32]


class TextClassifier:
    """Scores [0, 1] of texts: how sure it is that one asks to undress somebody, or the like."""

    def __init__(self, weights: dict[str, Values], version: str) -> None:
        """Take `inner` [WIDTH, H], `inner_bias` [H], `outer` [H] and `outer_bias` [1].

        Raises:
            ValueError: weights of another shape, or no numbers.
        """
        self.inner, self.inner_bias, self.outer, self.outer_bias = (
            np.asarray(weights[name], np.float32)
            for name in ("inner", "inner_bias", "outer", "outer_bias")
        )
        if self.inner.shape != (WIDTH, len(self.outer)):
            raise ValueError(f"weights of {self.inner.shape[0]} features, not {WIDTH}")
        if not all(np.isfinite(part).all() for part in weights.values()):
            raise ValueError("weights that are no numbers")
        self.version = version

    def scores(self, texts: Sequence[str]) -> Values:
        """float32 [N]; a text with no word of weight in any language has 0."""
        return np.array([self._score(text) for text in texts], np.float32)

    def _score(self, text: str) -> float:
        seen = [window for spelled in spellings(text) for window in windows(spelled)]
        seen = list(dict.fromkeys(w for window in seen for w in (window, mended(window))))
        read = [one for window in seen for one in readings(window)]
        if not read:
            return 0.0
        starts = np.cumsum([0, *(len(one.places) for one in read)])[:-1]
        places, values = map(np.concatenate, zip(*read, strict=True))
        rows = np.add.reduceat(self.inner[places] * values[:, None], starts)
        hidden = np.maximum(rows + self.inner_bias, 0)
        largest = float((hidden @ self.outer + self.outer_bias).max())  # NaN stays
        return float(1 / (1 + np.exp(-np.clip(largest, -30, 30))))


def windows(words: str) -> list[str]:
    """Overlapping runs of at most 24 words; of long texts also of 11, which hide no phrase."""
    cut = [w[at : at + _LONGEST] for w in words.split() for at in range(0, len(w), _LONGEST // 2)]
    found = [
        " ".join(cut[start : start + size])
        for size, step in ((_WIDE, _NARROW) if len(cut) > _LONG else (_WIDE,))
        for start in range(0, max(1, len(cut) - size + step), step)
    ]
    return list(dict.fromkeys(found))


@lru_cache(maxsize=1)
def text_classifier() -> TextClassifier:
    """The shipped classifier, loaded once per process.

    Raises:
        GateError: its files are missing or damaged: no text can pass.
    """
    from safetensors.numpy import load

    folder = resources.files("kontext.safety.wording")
    try:
        data = folder.joinpath("weights.safetensors").read_bytes()
        return TextClassifier(load(data), f"wording-2@{hashlib.sha256(data).hexdigest()[:16]}")
    except Exception as error:
        kind = type(error).__name__
        raise GateError(f"the text classifier cannot be loaded ({kind}): no text passes") from error
