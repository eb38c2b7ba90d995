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
from functools import cache, lru_cache
from importlib import resources
from typing import Any

from kontext.safety.ids import Reason

MAX_CHARS = 2000
_MOST_WRITTEN_OUT = 2 * MAX_CHARS  # one ligature may stand for eighteen letters
DATA_FILES = ("text_rules.json",)  # part of the code that decides

# accents, Arabic vowel signs, and marks that change nothing that is read: variation selectors and
# marks for symbols and for phonetics
_ACCENT = re.compile(
    "[\u0300-\u036f\u064b-\u0652\u0640\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f]"
    "|[\U000e0100-\U000e01ef]"
)
_LOOKALIKES = str.maketrans("асеорхуіјѕԁԛпкмтвнһӏьгүԝѵօսոհց", "aceopxyijsdqnkmtbhhlbrywvounhg")
_GREEK_LOOKALIKES = str.maketrans("αβγεηικνοπρτυχω", "abyeniknonptuxw")
_LEET = str.maketrans("01345789@$!|€", "oieastbgasile")
_OTHER_LEET = str.maketrans("01345789@$!|€", "oleastbgaslle")
_NAMED = re.compile(
    r"\b(?:LATIN (?:SMALL |CAPITAL )?|REGIONAL INDICATOR SYMBOL )LETTER (?:[A-Z]{2,} )*([A-Z])"
    r"(?: WITH .*)?$"
)
_TABLES = (_LEET, _OTHER_LEET)
_APART = r"[\s.\-_*/\\|+~,:;·•=]"
_SPACED = re.compile(rf"(?<!\w)(?:[^\W\d_]{_APART}{{1,2}}){{2,}}[^\W\d_](?!\w)")
_DRAWN = {  # letters of strokes, the longest first
    r"\/\/": "w",
    r"|\|": "n",
    "/-\\": "a",
    "|-|": "h",
    "|_|": "u",
    "/\\": "a",
    "|)": "d",
    "|<": "k",
}
_MASKED = re.compile(r"(?<=[^\W\d_])[*#](?=[^\W\d_])")
_JOINED = re.compile(r"[^\W\d_][^\w\s'\u2019\-/][^\W\d_]")  # words with a mark for a space
_CLASS = re.compile(r"(\\[A-Z])")  # in a pattern: \S is no \s
_TWICE = re.compile(r"(?<!\\)([a-z])\1")  # in a pattern
_PICTURES = 0x2600  # from here on a symbol is read by its name
# shown as nothing: selectors, fillers of Hangul, Khmer and Braille, and the joiner of graphemes
_UNSEEN = re.compile(
    "[\ufe00-\ufe0f\U000e0100-\U000e01ef\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0]"
)
_COMBINED = 0x180  # letters of European languages end here
_UNREADABLE = {"Cc", "Cs", "Co", "Cn"}
_REASONS = {  # of the rules, the strictest first
    "undress": Reason.TEXT_UNDRESS,
    "nudity": Reason.TEXT_NUDITY,
    "sexual": Reason.TEXT_SEXUAL,
}
_DOUBTED = ("undress", "of_things")  # of the rules, those that are not the last word
_NEAR = 6  # words on each side of what breaks a rule
_PASSING = ("idioms", "things", "allow")  # of the rules, those that say what is harmless


def fold(text: str) -> str:
    """NFKC, case-folded, without accents and invisible characters, odd Latin letters made plain."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(filter(_shows, text))
    text = _ACCENT.sub("", unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", "".join(map(_latin, text)))


@lru_cache(1 << 14)
def _latin(character: str) -> str:
    """The letter that a turned, small capital, stroked or boxed one stands for, by its name."""
    if character.isascii():
        return character
    found = _NAMED.search(unicodedata.name(character, ""))
    return found[1].lower() if found else character


def spellings(text: str) -> tuple[str, ...]:
    """What the learned classifier reads: the text, and the words that figures may stand for.

    The text is in small letters, without what is invisible, its emoji by their names, its lines
    apart by a stroke. The plain words follow where lines or words are told apart by marks, letters
    are odd (turned, boxed, of another script, with marks that no language gives them), stand
    apart, are masked or repeated, or figures may stand for some (a 1 for i or l). All are in single
    spaces, and different. Idioms (a comic strip) are taken out. What the rules allow of things is
    not: a person may follow ("the naked oak and she"), or stand where the rules leave room for any
    word ("hills, she is naked"). Of a text that shows nothing, or nothing but idioms and things
    that are named without such room, there are none.
    """
    worded, shown = "".join(map(_worded, text)), shown_text(text)
    folded = " ".join(_unmix(word) for word in fold(worded).split())
    apart = _SPACED.sub(lambda m: re.sub(_APART, "", m[0]), folded)
    for drawn, letter in _DRAWN.items():
        apart = apart.replace(drawn, letter)
    apart = _MASKED.sub("x", apart)
    read = [" ".join(_unleet(word, table) for word in apart.split()) for table in _TABLES]
    others = [_words(folded), *(re.sub(r"(\w)\1{2,}", r"\1", _words(one)) for one in read)]
    usual = _words("".join(map(_unaccented, shown)))
    kept = len(text.splitlines()) > 1 or _JOINED.search(shown)
    found = [shown, *(one for one in others if one != usual or kept)]
    if not _without(others[0], "idioms", "things"):
        return ()
    if any(idiom.search(others[0]) for idiom in _rules()["idioms"]):
        found = [_without(one, "idioms") for one in others]
    return tuple(dict.fromkeys(one for one in found if one))


def shown_text(text: str) -> str:
    """A text as somebody sees it: in small letters and single spaces, its lines apart by a stroke.

    Emoji stand by their names.
    """
    worded = unicodedata.normalize("NFKC", "".join(map(_worded, text)))
    lines = " / ".join(line for line in worded.splitlines() if line.strip())
    return " ".join(unicodedata.normalize("NFC", "".join(filter(_shows, lines.lower()))).split())


def _shows(character: str) -> bool:
    return unicodedata.category(character) != "Cf" and not _UNSEEN.match(character)


@lru_cache(1 << 14)
def _unaccented(character: str) -> str:
    """A letter without the accent that some language gives it; any other character as it is."""
    folded = character.casefold()
    parts = unicodedata.normalize("NFD", folded)
    if len(parts) > 1 and all(map(_ACCENT.match, parts[1:])):
        return parts[0]
    return _latin(folded) if len(folded) == 1 and ord(folded) < _COMBINED else folded


@lru_cache(1 << 12)
def _worded(character: str) -> str:
    """A word for an emoji or the like: its name, in spaces. Boxed letters stay.

    Nothing for what shows nothing.
    """
    if not _shows(character):
        return ""
    if ord(character) < _PICTURES or unicodedata.category(character) != "So":
        return character
    name = unicodedata.name(character, "")
    return character if _NAMED.search(name) else f" {name.lower()} "


def _without(words: str, *names: str) -> str:
    """The words without those that the rules of these names find."""
    for name in names:
        for rule in _rules()[name]:
            words = rule.sub(" ", words)
    return " ".join(words.split())


def _words(text: str) -> str:
    """Letters and digits in single spaces."""
    words = " ".join(re.sub(r"'s\b|’s\b", "", text).split())
    return " ".join("".join(map(_plain, words)).split())


def _variants(text: str) -> Iterator[str]:
    """Normalised spellings to match: words separated by single spaces."""
    folded = fold(text)
    folded = " ".join(_unmix(word) for word in folded.split())
    for joined in (folded, _SPACED.sub(lambda m: re.sub(_APART, "", m[0]), folded)):
        for spelled in (joined, " ".join(_unleet(word) for word in joined.split())):
            words = _words(spelled)
            yield words
            yield re.sub(r"(\w)\1{2,}", r"\1", words)
            yield re.sub(r"(\w)\1+", r"\1", words)


def _forms(words: str, *without: str) -> tuple[str, str]:
    """Words without what the rules of these names find: apart, and joined as cut words are."""
    kept = _without(words, *without)
    return kept, kept.replace(" ", "")


def _plain(character: str) -> str:
    """Letters, digits and the vowel signs of Indic and Thai scripts; a space for all else."""
    kept = character.isalnum() or unicodedata.category(character).startswith("M")
    return character if kept else " "


def _unmix(word: str) -> str:
    """Map look-alike letters to Latin in words that mix scripts; pure words are left alone."""
    if not re.search("[a-z]", word):
        return word
    return word.translate(_LOOKALIKES).translate(_GREEK_LOOKALIKES)


def _unleet(word: str, table: dict[int, int] = _LEET) -> str:
    return word.translate(table) if re.search(r"[^\W\d_]", word) else word


@cache
def _rules() -> dict[str, tuple[re.Pattern[str], ...]]:
    """Rule name -> patterns. They are folded as the text is; <word> stands for a list of words.

    One search for each takes a third of the time of one search for all of them joined.
    """
    rules, words = _raw(), _raw()["words"]

    def spelled(pattern: str, allows: bool) -> str:
        for name, alternatives in words.items():
            pattern = pattern.replace(f"<{name}>", alternatives)
        # variants have single letters for double ones: what is allowed is so in them, too
        pattern = _TWICE.sub(r"\1\1?", pattern) if allows else pattern
        return "".join(p if _CLASS.fullmatch(p) else fold(p) for p in _CLASS.split(pattern))

    return {
        name: tuple(re.compile(spelled(pattern, name in _PASSING)) for pattern in patterns)
        for name, patterns in rules.items()
        if name not in ("version", "words")
    }


@cache
def _raw() -> dict[str, Any]:
    text = resources.files("kontext.safety").joinpath("text_rules.json").read_text("utf-8")
    rules: dict[str, Any] = json.loads(text)
    return rules


def doubtful(text: str) -> tuple[str, ...]:
    """The words around each place that breaks a rule, where a rule is not the last word.

    It is not where all that is broken are rules on undressing, with nobody named near ("undress the
    lighthouse"), and words for nakedness that things have too (a wall, a lipstick). None where a
    rule is broken in another spelling only: what is spelled to pass, is meant.
    """
    broken = broken_rules(text)
    if not broken or not {Reason.TEXT_UNDRESS, Reason.TEXT_NUDITY}.issuperset(broken):
        return ()
    plain = _without(_words(fold(text)), *_PASSING)
    if broken_rules(_without(plain, *_DOUBTED)):
        return ()
    undress, of_things = (
        [_around(plain, *found.span()) for rule in _rules()[name] for found in rule.finditer(plain)]
        for name in _DOUBTED
    )
    if any(person.search(near) for near in undress for person in _rules()["persons"]):
        return ()
    return tuple(dict.fromkeys(undress + of_things))


def _around(words: str, start: int, end: int) -> str:
    """What lies between two places of a text, and some words on both sides."""
    before, after = words[:start].split(" "), words[end:].split(" ")
    return " ".join(before[-_NEAR - 1 :]) + words[start:end] + " ".join(after[: _NEAR + 1])


def is_about_minors(text: str) -> bool:
    """Whether a word of the text may mean a child."""
    rules = _rules()["minor"]
    read = dict.fromkeys(form for words in _variants(text) for form in _forms(words, "not_minor"))
    return any(rule.search(form) for form in read for rule in rules)


def rules_version() -> str:
    """Version of the rule lists, for decisions."""
    return str(_raw()["version"])


def check_text(text: str) -> Reason | None:
    """The strictest rule that an instruction or caption breaks, or None."""
    return next(iter(broken_rules(text)), None)


def broken_rules(text: str) -> tuple[Reason, ...]:
    """The rules that an instruction or caption breaks, the strictest first.

    Text above 2,000 characters, or 4,000 with emoji and ligatures written out, or with control or
    unassigned characters is refused unread: the time of judging any text is bounded.
    """
    readable = text.replace("\n", " ").replace("\t", " ").replace("\r", " ")
    if len(text) > MAX_CHARS or any(unicodedata.category(c) in _UNREADABLE for c in readable):
        return (Reason.TEXT_UNREADABLE,)
    if len(unicodedata.normalize("NFKC", "".join(map(_worded, text)))) > _MOST_WRITTEN_OUT:
        return (Reason.TEXT_UNREADABLE,)
    rules = _rules()
    hits: set[str] = set()
    read = (form for words in _variants(readable) for form in _forms(words, *_PASSING))
    for form in dict.fromkeys(read):
        hits |= {name for name in _REASONS if any(rule.search(form) for rule in rules[name])}
    if hits and is_about_minors(readable):
        return (Reason.TEXT_MINOR_SEXUAL,)
    return tuple(reason for name, reason in _REASONS.items() if name in hits)
