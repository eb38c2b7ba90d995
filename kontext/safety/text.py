"""Rules on instruction text: refuse undressing, nudity and sexual content, in many spellings.

Used when pairs are screened and by the editor. The lists (`text_rules.json`) are short on purpose:
image classifiers and the pair rule catch what they miss. Text is normalised before matching: NFKC,
case, accents, zero-width characters, look-alike letters, digits for letters, stretched and spaced
words.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from kontext.safety.ids import Reason

MAX_CHARS = 2000
DATA_FILES = ("text_rules.json",)  # part of the code that decides

# accents, Arabic vowel signs, and marks that change nothing that is read: variation selectors and
# marks for symbols and for phonetics
_ACCENT = re.compile(
    "[\u0300-\u036f\u064b-\u0652\u0640\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f]"
    "|[\U000e0100-\U000e01ef]"
)
_CYRILLIC_LOOKALIKES = str.maketrans("асеорхуіјѕԁԛпкмтв", "aceopxyijsdqnkmtb")
_GREEK_LOOKALIKES = str.maketrans("αεικνοπρτυχ", "aeiknonptux")
_LEET = str.maketrans("0134578@$!|", "oieastbasil")
_SPACED = re.compile(r"(?<!\w)(?:[^\W\d_][\s.\-_*]{1,2}){2,}[^\W\d_](?!\w)")
_UNREADABLE = {"Cc", "Cs", "Co", "Cn"}
_REASONS = {  # of the rules, the strictest first
    "undress": Reason.TEXT_UNDRESS,
    "nudity": Reason.TEXT_NUDITY,
    "sexual": Reason.TEXT_SEXUAL,
}


def fold(text: str) -> str:
    """NFKC, case-folded, without accents and invisible characters."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = _ACCENT.sub("", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", text)


def _variants(text: str) -> Iterator[str]:
    """Normalised spellings to match: words separated by single spaces."""
    folded = fold(text)
    folded = " ".join(_unmix(word) for word in folded.split())
    for joined in (folded, _SPACED.sub(lambda m: re.sub(r"[\s.\-_*]", "", m[0]), folded)):
        for spelled in (joined, " ".join(_unleet(word) for word in joined.split())):
            words = " ".join(re.sub(r"'s\b|’s\b", "", spelled).split())
            words = " ".join("".join(map(_plain, words)).split())
            yield words
            yield re.sub(r"(\w)\1{2,}", r"\1", words)
            yield re.sub(r"(\w)\1+", r"\1", words)
            yield words.replace(" ", "")  # for the few rules on words that were cut in pieces


def _plain(character: str) -> str:
    """Letters, digits and the vowel signs of Indic and Thai scripts; a space for all else."""
    kept = character.isalnum() or unicodedata.category(character).startswith("M")
    return character if kept else " "


def _unmix(word: str) -> str:
    """Map look-alike letters to Latin in words that mix scripts; pure words are left alone."""
    if not re.search("[a-z]", word):
        return word
    return word.translate(_CYRILLIC_LOOKALIKES).translate(_GREEK_LOOKALIKES)


def _unleet(word: str) -> str:
    return word.translate(_LEET) if re.search(r"[^\W\d_]", word) else word


@cache
def _rules() -> dict[str, tuple[re.Pattern[str], ...]]:
    """Rule name -> patterns. They are folded as the text is; <word> stands for a list of words.

    One search for each takes a third of the time of one search for all of them joined.
    """
    rules, words = _raw(), _raw()["words"]

    def spelled(pattern: str) -> str:
        for name, alternatives in words.items():
            pattern = pattern.replace(f"<{name}>", alternatives)
        return fold(pattern)

    return {
        name: tuple(re.compile(spelled(pattern)) for pattern in patterns)
        for name, patterns in rules.items()
        if name not in ("version", "words")
    }


@cache
def _raw() -> dict[str, Any]:
    text = resources.files("kontext.safety").joinpath("text_rules.json").read_text("utf-8")
    rules: dict[str, Any] = json.loads(text)
    return rules


def rules_version() -> str:
    """Version of the rule lists, for decisions."""
    return str(_raw()["version"])


def check_text(text: str) -> Reason | None:
    """The strictest rule that an instruction or caption breaks, or None.

    Text above 2,000 characters or with control or unassigned characters is refused unread.
    """
    readable = text.replace("\n", " ").replace("\t", " ").replace("\r", " ")
    if len(text) > MAX_CHARS or any(unicodedata.category(c) in _UNREADABLE for c in readable):
        return Reason.TEXT_UNREADABLE
    rules = _rules()
    hits: set[str] = set()
    for variant in dict.fromkeys(_variants(readable)):
        kept = variant
        for allowed in rules["allow"]:
            kept = allowed.sub(" ", kept)
        kept = " ".join(kept.split())
        hits |= {name for name in _REASONS if any(rule.search(kept) for rule in rules[name])}
        if any(rule.search(variant) for rule in rules["minor"]):
            hits.add("minor")
    if "minor" in hits and len(hits) > 1:
        return Reason.TEXT_MINOR_SEXUAL
    return next((reason for name, reason in _REASONS.items() if name in hits), None)
