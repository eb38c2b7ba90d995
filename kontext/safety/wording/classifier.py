"""The text classifier: a small multilingual language model that was taught what is asked for.

It is asked beside the rules, of every text but names and labels (`kontext.safety.texts`). Two
steps, as a cascade (Viola and Jones 2001): a network over the mean and the largest values of a
text's word vectors lets pass what has no suspicious word at all, which is most; what is left the
encoder reads word after word. Its weights are `weights.safetensors`;
`python -m kontext.safety.wording.train` makes them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources

import numpy as np

from kontext.errors import GateError
from kontext.safety.text import spellings
from kontext.safety.wording.encoder import Encoder
from kontext.safety.wording.packed import AnyValues, Packed, Values, packed
from kontext.safety.wording.pieces import Cutter

DATA_FILES = ("weights.safetensors",)  # part of the code that decides
# pieces, and pieces from the start of one window to that of the next, of what is longer than a
# caption: wide ones for what is asked for in many words, narrow ones for little amid much
LONG, WINDOWS = 48, ((48, 24), (20, 10))
UNKNOWN = 0.25  # share of unknown pieces from which a text is as good as unread
_TOGETHER = 512  # windows whose word vectors are held at once


class TextClassifier:
    """Scores [0, 1] of texts: how sure it is that one asks to undress somebody, or the like."""

    def __init__(self, model: Packed, weights: Mapping[str, AnyValues], version: str) -> None:
        """Take what was trained.

        Args:
            model: the encoder as it is shipped, of width W.
            weights: `bag.inner` [2W, H], `bag.inner_bias` [H], `bag.outer` [H], `bag.outer_bias`
                [1]; `sure` [1], the bag's logit below which a text passes; `head` [2W] and
                `head_bias` [1]; and what is added to the encoder's matrices (`Encoder`).
            version: stands in decisions.

        Raises:
            KeyError, ValueError: weights are missing, of another shape, or no numbers.
        """
        own = {name: np.asarray(part, np.float32) for name, part in weights.items()}
        if not all(np.isfinite(part).all() for part in own.values()):
            raise ValueError("weights that are no numbers")
        self._bag = [own.pop(f"bag.{n}") for n in ("inner", "inner_bias", "outer", "outer_bias")]
        self.sure, self._head, self._bias = (own.pop(n) for n in ("sure", "head", "head_bias"))
        width, hidden = 2 * model.shape.width, len(self._bag[1])
        wanted = [(width, hidden), (hidden,), (hidden,), (1,), (1,), (width,), (1,)]
        shapes = [part.shape for part in (*self._bag, self.sure, self._head, self._bias)]
        if shapes != wanted:
            raise ValueError(f"weights of the shapes {shapes}, not {wanted}")
        self._model, self._cutter = model, Cutter(model.pieces)
        self._encoder = Encoder(model, own)
        self.version = version

    def scores(self, texts: Sequence[str], whole: bool = False) -> Values:
        """float32 [N]: of each text the largest of its spellings and windows; 0 of none.

        What shows something that hardly a piece is known of, is as good as unread: 1. A score
        varies in the last bits with what is asked beside.

        Args:
            texts: [N].
            whole: whether the encoder reads all, also what the first step would let pass.
        """
        read = [self._read(text) for text in texts]
        unique = list(dict.fromkeys(window for own in read for window in own or ()))
        score_of = dict(zip(unique, self._scores(unique, whole).tolist(), strict=True))
        # NaN stays: np.max keeps it, max() would not
        scores = [
            1.0 if own is None else np.max([score_of[window] for window in own], initial=0.0)
            for own in read
        ]
        return np.array(scores, np.float32)

    def _read(self, text: str) -> list[tuple[int, ...]] | None:
        """Windows of all spellings; None where one cannot be read."""
        found = list[tuple[int, ...]]()
        for spelled in spellings(text):
            windows = self.windows(spelled)
            unknown = self._model.pieces.unknown
            strange = sum(window.count(unknown) for window in windows)
            if not windows or strange > max(2, UNKNOWN * sum(map(len, windows))):
                return None
            found += windows
        return list(dict.fromkeys(found))

    def windows(self, text: str) -> list[tuple[int, ...]]:
        """A text as numbers of pieces; of a long one overlapping parts."""
        start, *own, end = self._cutter.numbers(text)
        if len(own) <= LONG:
            return [(start, *own, end)] if own else []
        return [
            (start, *own[place : place + size], end)
            for size, step in WINDOWS
            for place in range(0, len(own) - size + step, step)
        ]

    def _scores(self, windows: list[tuple[int, ...]], whole: bool) -> Values:
        logits = self.bag_logits(windows)
        asked = np.flatnonzero(~(logits < self.sure) | whole)  # NaN is asked
        if len(asked):
            vectors = self._encoder.vectors([windows[place] for place in asked])
            logits[asked] = vectors @ self._head + self._bias
        made: Values = (1 / (1 + np.exp(-np.clip(logits, -30, 30)))).astype(np.float32)
        return made

    def bag_logits(self, windows: Sequence[Sequence[int]]) -> Values:
        """float32 [N]: what the first step says, of numbers of pieces."""
        inner, inner_bias, outer, outer_bias = self._bag
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(windows), _TOGETHER):
            features = bag_features(self._model, windows[start : start + _TOGETHER])
            found.append(np.maximum(features @ inner + inner_bias, 0) @ outer + outer_bias)
        return np.concatenate(found)


def bag_features(model: Packed, windows: Sequence[Sequence[int]]) -> Values:
    """float32 [N, 2W]: mean and largest values of the word vectors of each window's pieces."""
    own = [window[1:-1] for window in windows]  # without the marks
    starts = np.cumsum([0, *map(len, own)])[:-1]
    numbers = np.concatenate([np.asarray(window, np.int64) for window in own])
    known, places = np.unique(numbers, return_inverse=True)
    vectors = model.matrix("emb.word", model.shape.width, known)[places.reshape(-1)]
    sizes = np.array([[len(window)] for window in own], np.float32)
    mean = np.add.reduceat(vectors, starts) / sizes
    return np.concatenate([mean, np.maximum.reduceat(vectors, starts)], 1)


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
        version = f"wording-3@{hashlib.sha256(data).hexdigest()[:16]}"
        return TextClassifier(packed(), load(data), version)
    except Exception as error:
        kind = type(error).__name__
        raise GateError(f"the text classifier cannot be loaded ({kind}): no text passes") from error
