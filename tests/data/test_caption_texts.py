"""No sentence of the recipes' relations is stopped: not by the rules, nor by the classifier."""

from kontext.data.caption.relations import ALIASES, CARRIERS, WORDINGS
from kontext.data.caption.templates import _fill, wording_of
from kontext.data.caption.words import describe
from kontext.safety.texts import judge_texts

# relation -> the values that the sources of ci and demo have
VALUES = {
    "accessory": "nothing|antennae|cat ears|clown nose|fin|glasses|horns|round ears|sunglasses",
    "art_style": "EmojiOne|Noto|Twemoji|flat|glossy 3D|line art|old Noto|outlined OpenMoji",
    "expression": "angry|confused|frowning|happy|laughing|neutral|sad|sleepy|surprised|winking",
    "color": "black|blue|brown|green|grey|light blue|orange|pink|purple|red|white|yellow",
    "ring": "nothing|ring",
    "weather": "none|cloudy|drizzle|fog|hail|haze|rain|rainy|sleet|smoke|snow|snowy|sunny",
    "plant": "bush|cactus|flower|leaf|palm",
    "text": "0|7|A|AB|COOL|EXIT|FREE|HI|NEW|NG|OK|SALE|SOS|UP|VS|YES|LOVE",
    "background_color": "gray|green|navy|orange|pink|sky blue|white|yellow",
    "clothing_color": "black|blue|green|purple|red|yellow",
    "hair_color": "black|blond|blue|brown|gray|pink|red",
    "skin_color": "brown|dark|light|tan",
    "skin_tone": "dark|light|medium|medium-dark|medium-light",
    "drawing": "filled|line",
    "day_night": "day|night",
    "season": "autumn|desert|summer|winter",
    "time_of_day": "dawn|day|night|sunset",
    "glasses": "no|round|square",
    "gender": "man|person|woman",
}


def sentences() -> set[str]:
    found = set()
    for relation, joined in VALUES.items():
        values = joined.split("|")
        for start, end in [(values[0], one) for one in values[1:]] + [(values[-1], values[0])]:
            facts = {"attribute": relation, "from": start, "to": end}
            wording = wording_of(relation, facts)
            assert wording is not None, relation
            said = wording.of(start, end)
            found |= {_fill(wording, text, start, end) for text in (said.short, *said.sentences)}
            found.add(describe("person", {relation: end}))
    return found


def test_the_relations_of_the_recipes_pass() -> None:
    assert set(VALUES) <= {*WORDINGS, *ALIASES}
    texts = sorted(sentences())
    assert len(texts) > 1000
    stopped = [text for text, why in zip(texts, judge_texts(texts), strict=True) if why is not None]
    assert stopped == []


def test_carrier_phrases_hardly_add_to_what_is_stopped() -> None:
    """A classifier is never sure of every sum of two harmless halves: one in a hundred may go."""
    texts = sorted(sentences())
    for phrase in CARRIERS:
        carried = [phrase.replace("{}", text) for text in texts[::23]]
        stopped = [text for text, why in zip(carried, judge_texts(carried), strict=True) if why]
        assert len(stopped) <= len(carried) / 100, (phrase, stopped)
