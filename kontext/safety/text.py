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

from kontext.safety.ids import Reason

MAX_CHARS = 2000
DATA_FILES = ("text_rules.json",)  # part of the code that decides

_ACCENT = re.compile("[\u0300-\u036f\u064b-\u0652\u0640]")
_CYRILLIC_LOOKALIKES = str.maketrans("асеорхуіјѕԁԛпкмтв", "aceopxyijsdqnkmtb")
_GREEK_LOOKALIKES = str.maketrans("αεικνοπρτυχ", "aeiknonptux")
_LEET = str.maketrans("0134578@$!|", "oieastbasil")
_SPACED = re.compile(r"(?<!\w)(?:[^\W\d_][\s.\-_*]{1,2}){2,}[^\W\d_](?!\w)")
_PUNCTUATION = re.compile(r"[^\w\s]|_")
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
            words = " ".join(_PUNCTUATION.sub(" ", words).split())
            yield words
            yield re.sub(r"(\w)\1{2,}", r"\1", words)
            yield re.sub(r"(\w)\1+", r"\1", words)


def _unmix(word: str) -> str:
    """Map look-alike letters to Latin in words that mix scripts; pure words are left alone."""
    if not re.search("[a-z]", word):
        return word
    return word.translate(_CYRILLIC_LOOKALIKES).translate(_GREEK_LOOKALIKES)


def _unleet(word: str) -> str:
    return word.translate(_LEET) if re.search(r"[^\W\d_]", word) else word


@cache
def _rules() -> dict[str, re.Pattern[str]]:
    """Rule name -> one pattern. Patterns are folded as the text is."""
    return {
        name: re.compile("|".join(f"(?:{fold(pattern)})" for pattern in patterns))
        for name, patterns in _raw().items()
        if name != "version"
    }


@cache
def _raw() -> dict[str, list[str]]:
    text = resources.files("kontext.safety").joinpath("text_rules.json").read_text("utf-8")
    rules: dict[str, list[str]] = json.loads(text)
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
        kept = " ".join(rules["allow"].sub(" ", variant).split())
        hits |= {name for name in _REASONS if rules[name].search(kept)}
        if rules["minor"].search(variant):
            hits.add("minor")
    if "minor" in hits and len(hits) > 1:
        return Reason.TEXT_MINOR_SEXUAL
    return next((reason for name, reason in _REASONS.items() if name in hits), None)
