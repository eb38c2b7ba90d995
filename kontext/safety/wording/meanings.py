"""What the words of a text mean, in each language of `lexicon.txt`: clothes, persons, to remove, …

A text is read in every language, because nobody says which one it is in. A word has one meaning
or several in a language, or none that the lexicon knows. An English word that it does not know has
the meaning of the one whose MiniLM vector is nearest (`nearby.txt`).
"""

from collections.abc import Iterator
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kontext.safety.text import fold

DATA_FILES = ("lexicon.txt", "nearby.txt")  # part of the code that decides

MEANINGS = "GAPRUNTVXZSFBLDECOMK"
_UNKNOWN = len(MEANINGS)
TAGS = _UNKNOWN + 1
NEAR, FAR = 2, 6  # words between the two of a pair
WIDTH = TAGS + 2 * TAGS * TAGS + 3
_CORE = frozenset(map(MEANINGS.index, "GUNSTVXZ"))  # a text with none of these is not judged
_UNSPACED = ("ja", "zh", "ko")
_LONGEST = 4  # words of an entry
_SHORTEST, _RUN = 5, 10  # letters of a word that may have been cut, and of several in one
Values = NDArray[np.float32]


class _Lexicon(NamedTuple):
    """One language: entries by what has to match."""

    exact: dict[str, frozenset[int]]
    starts: dict[str, frozenset[int]]
    within: dict[str, frozenset[int]]
    phrases: dict[tuple[str, ...], frozenset[int]]


def readings(window: str) -> Values:
    """Features [languages that say anything, WIDTH] of a window of words."""
    words = window.split()
    rows = [_features(tags) for name in lexicons() if (tags := _tags(words, name))]
    return np.stack(rows) if rows else np.zeros((0, WIDTH), np.float32)


@lru_cache(1 << 12)
def mended(window: str) -> str:
    """The window with English words put together that were cut, and apart that were run together.

    Only words that the lexicon has are made, and at least one part of each is no word itself.
    """
    words, found, place = window.split(), list[str](), 0
    while place < len(words):
        for size in (2, 3):
            parts = words[place : place + size]
            if len(parts) == size and _is_cut(parts):
                found.append("".join(parts))
                place += size
                break
        else:
            found += _run_together(words[place])
            place += 1
    return " ".join(found)


def _is_cut(parts: list[str]) -> bool:
    whole = "".join(parts)
    known = len(whole) >= _SHORTEST and whole.isascii() and _UNKNOWN not in _word(whole, "en")
    return known and any(_UNKNOWN in _word(part, "en") for part in parts)


def _run_together(word: str) -> list[str]:
    """The longest known words that a long one consists of; the word itself where it does not."""
    known = lexicons()["en"]
    if len(word) < _RUN or not word.isascii() or word in known.exact:
        return [word]
    place, found = 0, list[str]()
    while place < len(word):
        sizes = range(min(_RUN, len(word) - place), 1, -1)
        parts = (word[place : place + size] for size in sizes)
        part = next((p for p in parts if p in known.exact or p in known.starts), "")
        if not part:
            return [word]
        found.append(part)
        place += len(part)
    return found


def reading(window: str, language: str) -> Values | None:
    """Features [WIDTH] in one language; None where it says nothing."""
    tags = _tags(window.split(), language)
    return _features(tags) if tags else None


@cache
def lexicons() -> dict[str, _Lexicon]:
    """Language -> its words."""
    found: dict[str, _Lexicon] = {}
    own = _Lexicon({}, {}, {}, {})
    for line in _lines("lexicon.txt"):
        if line.startswith("@"):
            own = found[line[1:].strip()] = _Lexicon({}, {}, {}, {})
            continue
        meaning, *entries = line.split()
        for entry in entries:
            _add(own, entry, MEANINGS.index(meaning))
    return found


def entries(language: str) -> dict[str, list[str]]:
    """Meaning -> the entries of a language that have it, for making phrases."""
    found: dict[str, list[str]] = {}
    known = lexicons()[language]
    for kind in (known.exact, known.starts, known.within):
        for word, meanings in kind.items():
            for meaning in meanings:
                found.setdefault(MEANINGS[meaning], []).append(word)
    return found


@cache
def nearby() -> dict[str, frozenset[int]]:
    """English words that the lexicon has not -> the meaning of the word that MiniLM puts nearest.

    Made by `python -m kontext.safety.wording.train`.
    """
    rows = (line.split() for line in _lines("nearby.txt"))
    return {word: frozenset(map(MEANINGS.index, row[0])) for row in rows for word in row[1:]}


def _lines(name: str) -> list[str]:
    text = resources.files("kontext.safety.wording").joinpath(name).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _add(own: _Lexicon, entry: str, meaning: int) -> None:
    plain = fold(entry.strip("*").replace("_", " ")).strip()
    words = tuple(plain.split())
    if len(words) > 1:
        own.phrases[words] = own.phrases.get(words, frozenset()) | {meaning}
        return
    kind = own.within if entry.startswith("*") else own.starts if entry.endswith("*") else own.exact
    kind[plain] = kind.get(plain, frozenset()) | {meaning}


def _tags(words: list[str], language: str) -> list[frozenset[int]]:
    """Meanings of each word; empty where nothing of weight is said in this language."""
    known = lexicons()[language]
    if language in _UNSPACED:
        tags = [tag for word in words for tag in _cut(word, language)]
    else:
        tags = list(_spaced(words, known, language))
    return tags if any(tag & _CORE for tag in tags) else []


def _spaced(words: list[str], known: _Lexicon, language: str) -> Iterator[frozenset[int]]:
    place = 0
    while place < len(words):
        for size in range(min(_LONGEST, len(words) - place), 1, -1):
            found = known.phrases.get(tuple(words[place : place + size]))
            if found is not None:
                yield found
                place += size
                break
        else:
            yield _word(words[place], language)
            place += 1


@lru_cache(1 << 16)
def _word(word: str, language: str) -> frozenset[int]:
    known = lexicons()[language]
    if (found := known.exact.get(word)) is not None:
        return found
    for size in range(len(word), 1, -1):
        if (found := known.starts.get(word[:size])) is not None:
            return found
    if language == "en" and (found := nearby().get(word)) is not None:
        return found
    merged = [m for part, meanings in known.within.items() if part in word for m in meanings]
    return frozenset(merged) or frozenset({_UNKNOWN})


@lru_cache(1 << 14)
def _cut(word: str, language: str) -> tuple[frozenset[int], ...]:
    """Meanings along a word without spaces: the longest entry at each place."""
    known, found, place = lexicons()[language].exact, list[frozenset[int]](), 0
    while place < len(word):
        for size in range(min(8, len(word) - place), 0, -1):
            if (meanings := known.get(word[place : place + size])) is not None:
                found.append(meanings)
                place += size
                break
        else:
            if not found or found[-1] != {_UNKNOWN}:
                found.append(frozenset({_UNKNOWN}))
            place += 1
    return tuple(found)


def _features(tags: list[frozenset[int]]) -> Values:
    """Which meanings there are, which follow which closely or at all, and how much is known."""
    values = np.zeros(WIDTH, np.float32)
    pairs = values[TAGS : TAGS + 2 * TAGS * TAGS].reshape(2, TAGS, TAGS)
    for place, own in enumerate(tags):
        for first in own:
            values[first] = 1
            for far, other in enumerate(tags[place + 1 : place + 1 + FAR]):
                for second in other:
                    pairs[1, first, second] = 1
                    if far < NEAR:
                        pairs[0, first, second] = 1
    unknown = sum(_UNKNOWN in tag for tag in tags)
    values[-3] = unknown / len(tags)
    values[-2] = min(unknown, 8) / 8
    values[-1] = min(len(tags), 24) / 24
    return values
