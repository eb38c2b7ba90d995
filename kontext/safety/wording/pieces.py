"""Cutting texts into XLM-RoBERTa's pieces: the likeliest way to read them (SentencePiece unigram).

The package `tokenizers` gives the same pieces (a test compares them), but takes three seconds of
every process to read the 250,002 of them.
"""

import re

import numpy as np

from kontext.safety.wording.packed import Pieces

_SPACE = "\u2581"  # how a space is written in a piece
_UNKNOWN_BELOW = 10.0  # an unknown character is that much less likely than the rarest piece
_SPACES = re.compile(" {2,}")


class Cutter:
    """Texts -> numbers of pieces."""

    def __init__(self, pieces: Pieces) -> None:
        """Take the pieces of a model."""
        self.pieces = pieces
        self._unknown_score = float(pieces.scores.min()) - _UNKNOWN_BELOW

    def numbers(self, text: str) -> list[int]:
        """Pieces of a text with its start and end marks. A text of spaces has these alone."""
        read = _SPACES.sub(" ", text.translate(self.pieces.letters)).strip(" ")
        words = [_SPACE + word for word in read.split(" ")] if read else []
        own = [number for word in words for number in self._cut(word)]
        return [self.pieces.start, *own, self.pieces.end]

    def _cut(self, word: str) -> tuple[int, ...]:
        """Viterbi over the word's characters: only words are cut, a space starts them."""
        pieces, data = self.pieces, word.encode("utf-8", "replace")
        ends = np.cumsum([0, *(len(c.encode("utf-8", "replace")) for c in word)]).tolist()
        best = [0.0, *[-np.inf] * len(word)]
        came = [(0, pieces.unknown)] * (len(word) + 1)
        for first, begin in enumerate(ends[:-1]):
            for last in range(first + 1, len(ends)):
                if ends[last] - begin > pieces.longest:
                    break
                number = pieces.numbers.get(data[begin : ends[last]])
                if number is None:
                    if last > first + 1:
                        continue
                    number, score = pieces.unknown, self._unknown_score
                else:
                    score = float(pieces.scores[number])
                if best[first] + score > best[last]:
                    best[last], came[last] = best[first] + score, (first, number)
        found, place = list[int](), len(word)
        while place:
            place, number = came[place]
            found.append(number)
        return tuple(reversed(found))
