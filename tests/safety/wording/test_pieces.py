"""Cutting texts into pieces, beside the library that XLM-RoBERTa's users take."""

import re
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace

from kontext.safety.wording.packed import packed
from kontext.safety.wording.phrases import phrases
from kontext.safety.wording.pieces import Cutter

CUTTER = Cutter(packed().pieces)


def joined(numbers: list[int]) -> list[int]:
    """Unknown pieces side by side as one: the library joins them, here they are counted."""
    unknown = packed().pieces.unknown
    return [n for n, run in groupby(numbers) for n in ([n] if n == unknown else run)]


def test_pieces_are_those_of_tokenizers() -> None:
    pieces = packed().pieces
    vocabulary = [(f"<{number}>", 0.0) for number in range(len(pieces.scores))]  # marks stay so
    for piece, number in pieces.numbers.items():
        vocabulary[number] = (piece.decode("utf-8", "replace"), float(pieces.scores[number]))
    library = Tokenizer(Unigram(vocabulary, unk_id=pieces.unknown))
    library.pre_tokenizer = Metaspace(prepend_scheme="always", split=False)
    texts = [phrase.text.lower() for phrase in phrases()[::40]]
    assert len(texts) > 300
    read = [re.sub(" {2,}", " ", text.translate(pieces.letters)).strip() for text in texts]
    for text, found in zip(texts, library.encode_batch(read), strict=True):
        assert joined(CUTTER.numbers(text)[1:-1]) == found.ids, text


def test_marks_stand_around_and_nothing_has_none_between() -> None:
    pieces = packed().pieces
    assert CUTTER.numbers("") == CUTTER.numbers("   ") == [pieces.start, pieces.end]
    assert CUTTER.numbers("tree") == CUTTER.numbers(" tree  ")
    assert pieces.end not in CUTTER.numbers("a </s> b")[1:-1]
    assert pieces.unknown in CUTTER.numbers("\U00010380")  # Ugaritic: no piece has it


@given(st.text(max_size=60))
def test_any_text_can_be_cut(text: str) -> None:
    numbers = CUTTER.numbers(text)
    assert all(0 <= number < 250_002 for number in numbers)
    assert (numbers[0], numbers[-1]) == (packed().pieces.start, packed().pieces.end)
