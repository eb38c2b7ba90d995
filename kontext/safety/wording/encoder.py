"""The text encoder of the classifier: a small BERT in numpy, with what training added to it.

float32; texts of like length go through it together. No torch: every process that reads texts has
one of these.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kontext.safety.wording.packed import Packed, Values

LONGEST = 128  # pieces of a text with its marks
_TOGETHER = 2048  # pieces of texts that go through the encoder together
_PARTS = ("q", "k", "v", "ao", "fi", "fo")  # matrices of a layer, as the file names them
_ROOT2 = np.float32(np.sqrt(2))


class _Layer(NamedTuple):
    weights: dict[str, Values]  # [in, out], of _PARTS
    biases: dict[str, Values]
    norms: tuple[tuple[Values, Values], tuple[Values, Values]]  # after attention, after the inner


class Encoder:
    """Pieces of texts -> one vector each: the mean and the largest of its pieces' states."""

    def __init__(self, packed: Packed, added: dict[str, Values]) -> None:
        """Unpack the layers and add what was trained.

        Args:
            packed: the model.
            added: `l{layer}.{part}.down` [rank, in] and `.up` [out, rank], whose product is added
                to a matrix (LoRA, Hu et al. 2022): of all matrices of a layer, or of none.

        Raises:
            KeyError: a layer lacks adapters of some matrix.
            ValueError: adapters of another shape, or of what the model does not have.
        """
        names = {number: self._names(number) for number in range(packed.shape.layers)}
        self._adapted = {n for n, own in names.items() if own & set(added)}
        if foreign := set(added) - {name for n in self._adapted for name in names[n]}:
            raise ValueError(f"adapters of no matrix: {sorted(foreign)[0]}")
        self.packed, self.shape = packed, packed.shape
        self._positions = packed.plain("emb.pos").reshape(-1, self.shape.width)
        self._positions += packed.plain("emb.type")[: self.shape.width]
        self._norm = (packed.plain("emb.ln.w"), packed.plain("emb.ln.b"))
        self._layers = [self._layer(number, added) for number in range(self.shape.layers)]

    @staticmethod
    def _names(number: int) -> set[str]:
        return {f"l{number}.{part}.{side}" for part in _PARTS for side in ("up", "down")}

    def _layer(self, number: int, added: dict[str, Values]) -> _Layer:
        weights, biases = dict[str, Values](), dict[str, Values]()
        for part in _PARTS:
            name = f"l{number}.{part}"
            columns = self.shape.inner if part == "fo" else self.shape.width
            matrix = self.packed.matrix(f"{name}.w", columns)
            if number in self._adapted:
                up, down = (added[f"{name}.{side}"].astype(np.float32) for side in ("up", "down"))
                if up.shape[0] != matrix.shape[0] or down.shape[1] != matrix.shape[1]:
                    raise ValueError(f"an adapter of {name} of another shape")
                matrix = matrix + up @ down
            weights[part] = np.ascontiguousarray(matrix.T)
            biases[part] = self.packed.plain(f"{name}.b")
        first, second = (
            (self.packed.plain(f"l{number}.{norm}.w"), self.packed.plain(f"l{number}.{norm}.b"))
            for norm in ("aln", "oln")
        )
        return _Layer(weights, biases, (first, second))

    def vectors(self, texts: Sequence[Sequence[int]]) -> Values:
        """Vectors [N, 2 * width] of texts given as numbers of pieces.

        They vary in the last bits with what goes through beside a text.

        Raises:
            ValueError: a text of more than `LONGEST` pieces.
        """
        if max(map(len, texts), default=0) > LONGEST:
            raise ValueError(f"a text of more than {LONGEST} pieces")
        out = np.zeros((len(texts), 2 * self.shape.width), np.float32)
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        start = 0
        while start < len(order):
            # as many as have room when each is padded to the longest, which comes last
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(texts[order[end]]) <= _TOGETHER:
                end += 1
            own = order[start:end]
            out[own] = self._together([texts[place] for place in own])
            start = end
        return out

    def _together(self, texts: Sequence[Sequence[int]]) -> Values:
        lengths = np.array([len(text) for text in texts])
        numbers = np.zeros((len(texts), int(lengths.max())), np.int64)
        for row, text in zip(numbers, texts, strict=True):
            row[: len(text)] = text
        seen = np.arange(numbers.shape[1]) < lengths[:, None]  # [B, L]
        known, places = np.unique(numbers, return_inverse=True)
        words = self.packed.matrix("emb.word", self.shape.width, known)[places.reshape(-1)]
        states = words.reshape(*numbers.shape, -1) + self._positions[: numbers.shape[1]]
        states = _normed(states, *self._norm, self.packed.eps)
        hidden = np.where(seen, np.float32(0), np.float32(-1e9))[:, None, None, :]
        for layer in self._layers:
            states = self._through(layer, states, hidden)
        mean = (states * seen[..., None]).sum(1) / lengths[:, None].astype(np.float32)
        largest = np.where(seen[..., None], states, np.float32(-1e9)).max(1)
        return np.concatenate([mean, largest], 1)

    def _through(self, layer: _Layer, states: Values, hidden: Values) -> Values:
        batch, length, width = states.shape
        flat = states.reshape(-1, width)
        heads = self.shape.heads

        def project(part: str, values: Values) -> Values:
            made: Values = values @ layer.weights[part] + layer.biases[part]
            return made

        query, key, value = (
            project(part, flat).reshape(batch, length, heads, -1).transpose(0, 2, 1, 3)
            for part in ("q", "k", "v")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // heads)) + hidden
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3).reshape(-1, width)
        flat = _normed(flat + project("ao", mixed), *layer.norms[0], self.packed.eps)
        inner = project("fi", flat)
        inner *= np.float32(0.5) * (1 + _erf(inner / _ROOT2))
        flat = _normed(flat + project("fo", inner), *layer.norms[1], self.packed.eps)
        return flat.reshape(batch, length, width)


def _normed(values: Values, weight: Values, bias: Values, eps: float) -> Values:
    centred = values - values.mean(-1, keepdims=True)
    spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(eps))
    made: Values = centred / spread * weight + bias
    return made


def _erf(values: Values) -> Values:
    """The error function within 1e-6: 7.1.26 of Abramowitz and Stegun, 1964.

    Machines that only train have no SciPy.
    """
    size = np.abs(values)
    part = 1 / (1 + np.float32(0.3275911) * size)
    tail = np.zeros_like(size)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail = (tail + np.float32(factor)) * part
    made: Values = np.copysign(1 - tail * np.exp(-size * size), values)
    return made
