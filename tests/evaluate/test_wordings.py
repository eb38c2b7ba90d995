from dataclasses import replace

import pytest

from kontext.data.caption.relations import WORDINGS
from kontext.evaluate.benches.held_out import Item
from kontext.evaluate.wordings import reworded

ITEM = Item("a" * 64, "local", "color", "color=red", "make it red", "", "", "test", "1")


@pytest.mark.parametrize(
    ("relation", "asked", "told"),
    [
        ("color", "color=red", "let its color be red from now on"),
        ("art_style", "art_style=pixel art", "let its art style be pixel art from now on"),
        ("accessory", "accessory=round_ears", "I would like to see round ears here"),
        ("ring", "ring=ring", "I would like to see a ring here"),
        ("ring", "ring=nothing", "leave out the ring this time"),
        ("text", "text=NO", "have it display 'NO' from now on"),
        ("composed", "make it red = blue", "here is what I would like: make it red"),
    ],
)
def test_an_instruction_says_the_same_in_other_words(relation: str, asked: str, told: str) -> None:
    assert reworded(replace(ITEM, relation=relation, asked=asked)) == told


@pytest.mark.parametrize("relation", sorted(WORDINGS))
@pytest.mark.parametrize("value", ["red", "nothing"])
def test_no_training_sentence_is_among_them(relation: str, value: str) -> None:
    item = replace(ITEM, relation=relation, asked=f"{relation}={value}")
    wording = WORDINGS[relation]
    fields = {"to": value, "from": "blue", "a_to": f"a {value}", "some_to": f"a {value}"}
    fields |= {"when": f"at {value}", "hair": f"{value} hair"}
    said = [way for way in (wording.change, wording.add, wording.remove) if way]
    known = {text.format(**fields) for way in said for text in (way.short, *way.sentences)}
    assert known and reworded(item) not in known
