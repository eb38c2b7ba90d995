import doctest
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.data.caption import words as words_module
from kontext.data.caption.base import MAX_WORDS, Caption, CaptionRequest, ImageFacts
from kontext.data.caption.relations import ALIASES, CARRIERS, WORDINGS, generic
from kontext.data.caption.templates import TemplateCaptioner
from kontext.data.caption.words import describe
from kontext.data.mine.relations import RELATIONS

SAMPLES = {
    "skin_tone": ("light", "medium-dark"),
    "glasses": ("round", "square"),
    "accessory": ("cat ears", "clown nose"),
    "hair_style": ("curly", "bald"),
    "text": ("NO", "OPEN"),
    "time_of_day": ("dawn", "night"),
    "day_night": ("day", "night"),
    "season": ("summer", "winter"),
    "weather": ("rain", "snow"),
    "drawing": ("line", "filled"),
    "art_style": ("flat Fluent", "outlined OpenMoji"),
    "gender": ("man", "woman"),
    "expression": ("sad", "angry"),
    "direction": ("left", "right"),
}


def request(
    relation: str,
    start: str,
    end: str,
    number: int = 0,
    attribute: str | None = None,
    **params: Any,
) -> CaptionRequest:
    name = relation if attribute is None else attribute
    labels = {"attribute": name, "from": start, "to": end, "subject": "person", **params}
    return CaptionRequest(
        pair_id=f"{relation}-{number}",
        relation_class="local",
        relation=relation,
        params=json.dumps(labels),
        target=ImageFacts("person", {name: end}),
        contexts=(ImageFacts("person", {name: start}),),
    )


def caption(*args: Any, **options: Any) -> Caption:
    return TemplateCaptioner().caption(request(*args, **options))


# --- wording -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(WORDINGS))
def test_every_relation_has_six_good_paraphrases(name: str) -> None:
    wording = WORDINGS[name]
    families = [wording.change, *(f for f in (wording.add, wording.remove) if f)]
    assert bool(wording.add) == bool(wording.remove)
    for short, family in families:
        assert short
        assert len(set(family)) == len(family) >= 6
        for sentence in (*family, short):
            used = set(re.findall(r"{(\w+)}", sentence))
            assert used <= {"from", "to", "a_to", "some_to", "when", "hair"}
            assert len(sentence.split()) <= 9
    for sentence in (*wording.change.sentences, *(wording.add.sentences if wording.add else ())):
        assert re.search(r"{(to|a_to|some_to|when|hair)}", sentence), "the goal must be named"


@pytest.mark.parametrize("relation", sorted({r for r, _ in RELATIONS.values()}))
def test_every_mined_relation_is_worded(relation: str) -> None:
    assert ALIASES.get(relation, relation) in WORDINGS
    start, end = SAMPLES.get(relation, ("red", "blue"))
    attribute = next(a for a, (r, _) in RELATIONS.items() if r == relation)
    found = {caption(relation, start, end, n, attribute).instruction for n in range(120)}
    assert len(found) >= 6
    for n in range(20):
        row = caption(relation, start, end, n, attribute)
        assert row.status == "ok" and row.template.startswith(f"{relation}/")
        assert "{" not in " ".join(map(str, vars(row).values()))
        assert len(row.instruction_short.split()) <= len(row.instruction.split()) + 1


@pytest.mark.parametrize("relation", sorted(SAMPLES))
def test_inverse_is_the_same_sentence_turned_round(relation: str) -> None:
    start, end = SAMPLES[relation]
    for number in range(12):
        there, back = caption(relation, start, end, number), caption(relation, end, start, number)
        assert there.instruction != there.instruction_inverse
        swapped = TemplateCaptioner().caption(request(relation, end, start, number))
        assert there.instruction_inverse == swapped.instruction
        assert there.instruction == back.instruction_inverse
        assert there.target_caption == back.context_caption


def test_things_are_added_and_removed() -> None:
    for number in range(12):
        there = caption("glasses", "no", "round", number)
        asked = r"(adding|add|give|put|have|had|with|be|show|want|draw|include|needs)\b.*round gl"
        asked += "|round glasses (would be nice|appear)|round glasses, please"
        assert re.search(asked, there.instruction)
        gone = "remove|take off|rid|delete|no more|without|gone|erase|must go|disappear|not have"
        gone += "|drop|no round glasses"
        assert re.search(gone, there.instruction_inverse)
        assert "no glasses" not in there.context_caption
    assert caption("accessory", "nothing", "clown nose").instruction_short == "add clown nose"
    assert caption("weather", "rain", "none").instruction_short == "remove rain"
    assert caption("hat", "none", "red", attribute="hat").instruction_short == "add red hat"


def test_words_on_signs_are_kept_letter_for_letter() -> None:
    """NO is a word on a sign, not an absence; camelCase is not a label there."""
    row = caption("text", "NO", "OpenNow")
    assert "'OpenNow'" in row.instruction and "'NO'" in row.instruction_inverse
    assert row.context_caption == "a person reading 'NO'"


def test_a_reference_is_pointed_at_and_the_way_back_named() -> None:
    relation = "hair_color_by_reference"
    made = TemplateCaptioner().caption(request(relation, "red", "blue", attribute="hair_color"))
    assert made.status == "ok" and made.template.startswith(relation)
    assert "second picture" in made.instruction and "hair color" in made.instruction
    assert "blue" not in made.instruction and "red" in made.instruction_inverse
    assert made.instruction_short == "hair color of the second picture"


def test_choice_depends_on_pair_and_seed_only() -> None:
    first = [caption("hair_color", "red", "blue", n) for n in range(40)]
    assert first == [caption("hair_color", "red", "blue", n) for n in range(40)]
    other = TemplateCaptioner(seed=1)
    second = [other.caption(request("hair_color", "red", "blue", n)) for n in range(40)]
    assert [c.template for c in first] != [c.template for c in second]
    few = TemplateCaptioner(paraphrases=2)
    used = {few.caption(request("hair_color", "red", "blue", n)).template for n in range(40)}
    assert used == {"hair_color/0", "hair_color/1"}


def test_a_share_of_edits_is_asked_for_within_carrier_phrases() -> None:
    plain = [TemplateCaptioner(carrier_share=0.0).caption(request("color", "red", "blue", n))
             for n in range(400)]  # fmt: skip
    rows = [TemplateCaptioner(carrier_share=0.5).caption(request("color", "red", "blue", n))
            for n in range(400)]  # fmt: skip
    carried = 0
    used = set()
    for row, bare in zip(rows, plain, strict=True):
        assert row.template == bare.template and row.instruction_short == bare.instruction_short
        framing = row.instruction.replace(bare.instruction, "{}")
        assert framing == "{}" or framing in CARRIERS
        assert row.instruction_inverse == framing.replace("{}", bare.instruction_inverse)
        carried += framing != "{}"
        used.add(framing)
    assert 160 < carried < 240
    assert used == {"{}", *CARRIERS}, "each of them is used"


def test_a_carrier_phrase_makes_no_text_too_long() -> None:
    assert all(phrase.count("{}") == 1 and len(phrase.split()) <= 5 for phrase in CARRIERS)
    captioner = TemplateCaptioner(carrier_share=1.0)
    rows = [captioner.caption(request("note", "short", "word " * 9, n, "note")) for n in range(60)]
    assert {row.status for row in rows} == {"ok"}
    assert max(len(row.instruction.split()) for row in rows) <= 14


def test_weather_is_a_thing_or_what_a_day_is_like() -> None:
    for number in range(60):
        sunny = caption("weather", "sunny", "rainy", number)
        assert not re.search("the sunny|(into|with|for|of) (rainy|sunny)$", sunny.instruction)
        assert sunny.target_caption == "a person with rainy weather"
    falls = {caption("weather", "snow", "rain", number).instruction for number in range(60)}
    assert any("the snow" in text for text in falls)


def test_folder_labels_get_generic_sentences() -> None:
    row = caption("roof_color", "#d8433b", "darkBlue", attribute="roof_color")
    assert row.status == "ok"
    assert "roof color" in row.instruction and "dark blue" in row.instruction
    assert "red" in row.instruction_inverse
    assert len(set(generic("roof").change.sentences)) >= 6
    assert "{odd}" in caption("{odd}", "a", "b", attribute="{odd}").instruction


@pytest.mark.parametrize(
    "bad",
    [
        request("teleport", "here", "there", attribute="place"),
        request("color", "red", "red"),
        CaptionRequest("p", "local", "color", "not json", ImageFacts("x"), (ImageFacts("x"),)),
        CaptionRequest("p", "local", "color", "[1]", ImageFacts("x"), (ImageFacts("x"),)),
        CaptionRequest("p", "local", "color", "{}", ImageFacts("x"), (ImageFacts("x"),)),
        CaptionRequest(
            "p",
            "local",
            "color",
            '{"attribute":"color","from":{},"to":"a"}',
            ImageFacts("x"),
            (ImageFacts("x"),),
        ),
        request("note", "short", "word " * 30, attribute="note"),
    ],
)
def test_what_cannot_be_worded_is_malformed(bad: CaptionRequest) -> None:
    row = TemplateCaptioner().caption(bad)
    assert (row.status, row.instruction, row.target_caption) == ("malformed", "", "")


def test_text_to_image_singles() -> None:
    single = CaptionRequest("p", "t2i", "t2i", "{}", ImageFacts("red sign", {"text": "OPEN"}), ())
    row = TemplateCaptioner().caption(single)
    assert row.instruction == row.target_caption == "a red sign reading 'OPEN'"
    assert row.instruction_short == "a red sign"
    assert row.instruction_inverse == row.context_caption == ""
    nameless = CaptionRequest("p", "t2i", "t2i", "{}", ImageFacts(" "), ())
    assert TemplateCaptioner().caption(nameless).status == "empty"


def test_a_share_of_singles_is_asked_for_in_few_words() -> None:
    facts = ImageFacts("red sign", {"text": "OPEN"})
    singles = [CaptionRequest(str(n), "t2i", "t2i", "{}", facts, ()) for n in range(400)]
    rows = [TemplateCaptioner(short_share=0.25).caption(single) for single in singles]
    short = [row for row in rows if row.instruction == "a red sign"]
    assert 70 < len(short) < 130
    assert {row.template for row in short} == {"t2i/short"}
    assert {row.target_caption for row in rows} == {"a red sign reading 'OPEN'"}
    assert {row.instruction for row in rows} == {"a red sign", "a red sign reading 'OPEN'"}
    whole = [TemplateCaptioner(short_share=1.0).caption(single) for single in singles]
    assert {row.instruction for row in whole} == {"a red sign"}


def test_descriptions_name_the_change_and_stay_short() -> None:
    labels = {
        "hair_color": "blond",
        "clothing_color": "red",
        "glasses": "round",
        "expression": "surprised",
        "background_color": "orange",
        "skin_color": "tan",
    }
    for focus in labels:
        text = describe("cartoon person", labels, focus)
        assert len(text.split()) <= MAX_WORDS and labels[focus] in text
    assert describe("old clock", {}) == "an old clock"
    assert describe("woman astronaut", {"gender": "woman"}) == "a woman astronaut"
    assert describe("person", {"glasses": "no", "hair": "bald"}) == "a person with no hair"


@settings(max_examples=50)
@given(
    st.text(max_size=60),
    st.dictionaries(st.text(max_size=12), st.text(max_size=40), max_size=6),
)
def test_any_labels_give_a_short_single_line(concept: str, labels: dict[str, str]) -> None:
    text = describe(concept, labels, next(iter(labels), ""))
    assert len(text.split()) <= MAX_WORDS and len(text.splitlines()) <= 1


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(words_module).failed == 0
