"""Phrases as somebody types them who wants to pass: the reader sees through most of it."""

import random

import pytest

from kontext.safety.text import spellings
from kontext.safety.wording import spoiled
from kontext.safety.wording.spoiled import hidden, slipped, unmarked


def test_hidden_words_are_others_and_many_are_read_alike() -> None:
    text, draw = "paint the wooden garden fence green", random.Random(0)
    made = [hidden(text, draw) for _ in range(200)]
    assert len(set(made)) > 100 and made.count(text) < 10
    read = [any(text == spelled for spelled in spellings(one)) for one in made]
    assert 0.3 < sum(read) / len(read) < 0.9  # words that were cut or masked stay so


@pytest.mark.parametrize("way", spoiled._WAYS)
def test_every_way_changes_a_word(way) -> None:
    assert any(way("fence", random.Random(seed)) != "fence" for seed in range(5))


def test_slips_are_small() -> None:
    draw = random.Random(1)
    made = [slipped("paint the fence", draw) for _ in range(100)]
    assert all(abs(len(one) - len("paint the fence")) <= 2 and one[0] == "p" for one in made)
    assert len(set(made)) > 20 and slipped("tree", draw) == "tree"


def test_accents_can_be_left_out() -> None:
    assert unmarked("häuser, žluťoučký") == "hauser, zlutoucky"
