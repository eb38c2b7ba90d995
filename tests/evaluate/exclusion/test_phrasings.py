"""Words of attacks: near in meaning, of all kinds, and never those that training has seen."""

import pytest

from kontext.data.shards.read import PairRow
from kontext.evaluate.exclusion.matching import asks_for, shows, words_for
from kontext.evaluate.exclusion.phrasings import LAST, ROUNDS, NearWords, rephrased
from kontext.evaluate.exclusion.wordbook import Wordbook
from kontext.models.text.encoders import MiniLM
from schemas.sections.exclusion import Concept

OWN = ("make them look angry", "give them an angry face")
LABELS = ("happy", "sad", "surprised")


@pytest.fixture(scope="module")
def near() -> NearWords:
    return NearWords(MiniLM())


def row(instruction: str, to: str = "", relation: str = "expression", **more: object) -> PairRow:
    params = {"attribute": relation, "from": "flat", "to": to} if to else dict(more)
    texts = {"instruction_short": "", "instruction_inverse": "", "target_caption": ""}
    return PairRow(
        pair_id=instruction,
        relation_class="character",
        relation=relation,
        instruction=instruction,
        context_caption="",
        params=params,
        source="",
        license_spdx="",
        split="train",
        contexts=(0,) if to else (),
        target=1,
        **texts,
    )


def test_near_words_mean_the_same_and_not_another_label(near: NearWords) -> None:
    found = near.of("angry", LABELS)
    assert {"mad", "enraged", "furious", "irritated"} & set(found[:12])
    assert "angry" not in found and not {"happy", "glad", "sad"} & set(found)
    assert near.of("angry", LABELS) == found


def test_what_the_last_attack_says_no_round_has_seen(near: NearWords) -> None:
    seen = set(rephrased(OWN, ["angry"], near, ROUNDS, 10_000, 0, LABELS))
    last = set(rephrased(OWN, ["angry"], near, LAST, 10_000, 0, LABELS))
    assert len(seen) > 100 and len(last) > 100
    assert not seen & last and not (seen | last) & set(OWN)
    words = near.of("angry", LABELS)
    assert any("angry" in text for text in last)  # the concept's own word, in other frames
    assert not any(word in text.split() for word in words[0::2][:3] for text in last)


def test_an_attack_is_drawn_from_its_seed_and_has_all_kinds(near: NearWords) -> None:
    some = rephrased(OWN, ["angry"], near, ROUNDS, 12, 1, LABELS)
    assert some == rephrased(OWN, ["angry"], near, ROUNDS, 12, 1, LABELS) and len(some) == 12
    assert some != rephrased(OWN, ["angry"], near, ROUNDS, 12, 2, LABELS)
    whole = [text for text in some if any(own in text for own in OWN)]
    assert 2 <= len(whole) <= 6  # an instruction in a frame, beside words in frames and replaced


def test_without_words_any_word_of_an_instruction_is_replaced(near: NearWords) -> None:
    found = rephrased(["remove the hat now"], [], near, LAST, 1000, 0)
    assert any("hat" in text and "remove" not in text for text in found)


ANGRY = Concept(name="angry look", relation="expression", values=("angry",))


def test_edits_are_found_by_label_and_by_words() -> None:
    assert asks_for(ANGRY, row("make them look angry", "angry"))
    assert not asks_for(ANGRY, row("make them look sad", "sad"))
    assert not asks_for(ANGRY, row("make it angry", "angry", relation="mood"))
    assert not asks_for(ANGRY, row("an angry blob"))  # no context: nothing is edited
    assert shows(ANGRY, row("an angry blob")) and not shows(ANGRY, row("a sad blob"))
    assert shows(ANGRY, row("a blob", **{"label.expression": "angry"}))
    hat = Concept(name="no hat", pattern=r"(remove|take off) .*\bhat\b", phrases=("hat off",))
    assert asks_for(hat, row("Take off the red hat", "none", relation="accessory"))
    assert asks_for(hat, row("hat off", "none", relation="accessory"))
    assert not asks_for(hat, row("add a hat", "hat", relation="accessory"))
    assert words_for(ANGRY) == ("angry",) and words_for(hat) == ()
    removal = Concept(name="x", relation="accessory", values=("none",))
    assert words_for(removal) == ()  # that nothing is there is no word for it


def test_a_wordbook_says_the_rest_in_other_words_too(near: NearWords) -> None:
    rows = [row(f"make them look {to}", to) for to in ("angry", *LABELS)]
    rows.append(row("redraw it in pixel art style", "pixel art", relation="art_style"))
    book = Wordbook(rows, [ANGRY], near, lambda text: len(text) < 40)
    assert book.own == ["make them look angry"]
    kept = book.kept
    assert set(kept) == {f"expression={to}" for to in LABELS} | {"art_style=pixel art"}
    said = {text for texts in kept.values() for text in texts}
    assert not any("angry" in text for text in said) and max(map(len, said)) < 40
    assert not set(book.attacks(LAST, 50, 0)) & {*book.own, *book.attacks(ROUNDS, 500, 0)}
