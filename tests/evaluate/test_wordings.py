import re
from dataclasses import replace
from pathlib import Path

import pytest

from kontext.data import caption, operations
from kontext.data.caption.relations import WORDINGS
from kontext.evaluate import wordings
from kontext.evaluate.benches.held_out import Item
from kontext.evaluate.wordings import in_training, reworded

ITEM = Item("a" * 64, "local", "color", "color=red", "make it red", "", "", "test", "1")


def in_all_words(item: Item) -> set[str]:
    return {reworded(replace(item, pair_id=f"{number:064x}")) for number in range(60)}


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
    item = replace(ITEM, relation=relation, asked=asked)
    found = in_all_words(item)
    assert told in found and len(found) == 4


@pytest.mark.parametrize("relation", sorted(WORDINGS))
@pytest.mark.parametrize("value", ["red", "nothing"])
def test_no_training_sentence_is_among_them(relation: str, value: str) -> None:
    item = replace(ITEM, relation=relation, asked=f"{relation}={value}")
    wording = WORDINGS[relation]
    fields = {"to": value, "from": "blue", "a_to": f"a {value}", "some_to": f"a {value}"}
    fields |= {"when": f"at {value}", "hair": f"{value} hair"}
    said = [way for way in (wording.change, wording.add, wording.remove) if way]
    known = {text.format(**fields) for way in said for text in (way.short, *way.sentences)}
    assert known and not in_all_words(item) & known


@pytest.mark.parametrize(
    "pattern", [*wordings._TEXT, *wordings._THING, *wordings._VALUE, *wordings._NONE]
)
def test_no_file_that_words_training_pairs_has_what_is_said(pattern: str) -> None:
    said = max(re.split(r"'?\{\w+\}'?", pattern), key=len).strip()
    assert len(said.split()) >= 2
    files = [p for part in (caption, operations) for p in Path(*part.__path__).rglob("*.py")]
    assert len(files) > 10
    assert not [path.name for path in files if said in path.read_text()]


def test_instructions_that_stand_in_training_are_counted() -> None:
    items = [ITEM, replace(ITEM, instruction="Paint it  red."), replace(ITEM, asked="color=blue")]
    found = in_training(items, ["Make it RED", "paint it red", "a red car"])
    assert (found.items, found.known, found.reworded_known) == (3, 3, 0)
    assert found.line == (
        "the instructions of 3 of 3 items stand in training word by word, with other pictures; of "
        "their other words, none do"
    )
    told = in_training(items, [reworded(ITEM)])
    assert (told.known, told.reworded_known) == (0, 2) and told.line.endswith("other words, 2 do")
