"""What the words of a text mean, in each language of `lexicon.txt`: clothes, persons, to remove, …

A text is read in every language, because nobody says which one it is in. A word has one meaning
or several in a language, or none that the lexicon knows. An English word that it does not know has
the meaning of the one whose MiniLM vector is nearest (`nearby.txt`), or of the one that it is with
one letter more, less, other or exchanged.
"""

from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kontext.safety.text import fold

DATA_FILES = ("lexicon.txt", "nearby.txt")  # part of the code that decides

MEANINGS = "GHAPRUNTVXZSFBLDECOMIQWK"
_UNKNOWN = len(MEANINGS)
TAGS = _UNKNOWN + 1
NEAR, FAR = 2, 6  # words between the two of a pair
WIDTH = TAGS + 3 * TAGS * TAGS + 3
_PLAIN = {MEANINGS.index("K")}  # passed over where the next word that says something is asked for
_CORE = frozenset(map(MEANINGS.index, "GHUNSTVXZB"))  # a text with none of these is not judged
REAL = "_"  # of nearby.txt: English words that are no misspelling of one in the lexicon
_UNSPACED = ("ja", "zh", "ko")
_LONGEST = 4  # words of an entry
_SHORTEST, _RUN = 5, 10  # letters of a word that may have been cut, and of several in one
_ENDING = 3  # letters
Values = NDArray[np.float32]


class Reading(NamedTuple):
    """What a window of words says in one language: the features that are not 0."""

    places: NDArray[np.int32]  # [N] of WIDTH, ascending
    values: Values  # [N] in (0, 1]


class _Lexicon(NamedTuple):
    """One language: entries by what has to match."""

    exact: dict[str, frozenset[int]]
    starts: dict[str, frozenset[int]]
    within: dict[str, frozenset[int]]
    phrases: dict[tuple[str, ...], frozenset[int]]


def readings(window: str) -> list[Reading]:
    """Features of a window of words, of each language in which it says anything."""
    words = window.split()
    spoken = dict.fromkeys(name for word in words for name in _speaks(word))
    return [
        _features(tags) for name in lexicons() if name in spoken and (tags := _tags(words, name))
    ]


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
    if len(whole) < _SHORTEST or all(_listed(part, "en") for part in parts):
        return False
    return whole.isascii() and _is_word(whole)


def _is_word(whole: str) -> bool:
    """Whether the lexicon has an English word, but for a short ending."""
    known = lexicons()["en"]
    starts = (whole[:size] for size in range(len(whole) - _ENDING, len(whole) + 1))
    near = nearby().get(whole, frozenset({_UNKNOWN}))
    return whole in known.exact or _UNKNOWN not in near or any(w in known.starts for w in starts)


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


def reading(window: str, language: str) -> Reading | None:
    """Features in one language; None where it says nothing."""
    tags = _tags(window.split(), language)
    return _features(tags) if tags else None


@cache
def lexicons() -> dict[str, _Lexicon]:
    """Language -> its words."""
    found: dict[str, _Lexicon] = {}
    own = _Lexicon({}, {}, {}, {})
    for line in _lines("lexicon.txt"):
        if line.startswith("@"):
            own = found.setdefault(line[1:].strip(), _Lexicon({}, {}, {}, {}))
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

    And real words that look like misspellings -> none. Made by `python -m
    kontext.safety.wording.train`.
    """
    found: dict[str, frozenset[int]] = {}
    for letters, *words in map(str.split, _lines("nearby.txt")):
        meant = {_UNKNOWN} if letters == REAL else set(map(MEANINGS.index, letters))
        found |= dict.fromkeys(words, frozenset(meant))
    return found


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


@lru_cache(1 << 16)
def _speaks(word: str) -> tuple[str, ...]:
    """Languages in which a word, or a phrase that begins with it, may be of weight."""
    return tuple(
        name
        for name in lexicons()
        if word in _beginnings(name)
        or any(
            tag & _CORE for tag in (_cut(word, name) if name in _UNSPACED else [_word(word, name)])
        )
    )


@cache
def _beginnings(language: str) -> frozenset[str]:
    return frozenset(phrase[0] for phrase in lexicons()[language].phrases)


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
    if (found := _listed(word, language)) is not None:
        return found
    if language == "en" and (meant := misspelt(word)):
        return _listed(meant, language) or frozenset({_UNKNOWN})
    within = lexicons()[language].within
    merged = [m for part, meanings in within.items() if part in word for m in meanings]
    return frozenset(merged) or frozenset({_UNKNOWN})


@lru_cache(1 << 16)
def _listed(word: str, language: str) -> frozenset[int] | None:
    """What the lexicon or `nearby` says of a word; None where neither has it."""
    known = lexicons()[language]
    if (found := known.exact.get(word)) is not None:
        return found
    for size in range(len(word), 1, -1):
        if (found := known.starts.get(word[:size])) is not None:
            return found
    return nearby().get(word) if language == "en" else None


def misspelt(word: str) -> str:
    """The English word of the lexicon that this is with one slip; "" where it is none.

    A slip is a letter more, less or other, or two exchanged, but the first letter is right.
    """
    if len(word) < _SHORTEST or not (word.isascii() and word.isalpha()):
        return ""
    known = _shortened()
    meant = {m for cut in (word, *_cuts(word)) for m in known.get(cut, ())}
    return min((m for m in meant if m[0] == word[0] and _one_slip(m, word)), default="")


@cache
def _shortened() -> dict[str, list[str]]:
    """English words, and words with one letter cut out -> the words of the lexicon they are of."""
    known, found = lexicons()["en"], dict[str, list[str]]()
    words = dict.fromkeys([*known.exact, *known.starts, *(f"{word}s" for word in known.starts)])
    for word in words:
        if len(word) >= _SHORTEST and word.isascii() and word.isalpha():
            for cut in (word, *_cuts(word)):
                found.setdefault(cut, []).append(word)
    return found


def _cuts(word: str) -> set[str]:
    return {word[:place] + word[place + 1 :] for place in range(len(word))}


def _one_slip(meant: str, word: str) -> bool:
    """Whether two different words that share a form with a letter cut out are one slip apart."""
    if len(meant) != len(word):
        return abs(len(meant) - len(word)) == 1
    apart = [place for place, letter in enumerate(meant) if letter != word[place]]
    if len(apart) == 2 and apart[1] == apart[0] + 1:
        return meant[apart[0]] == word[apart[1]] and meant[apart[1]] == word[apart[0]]
    return len(apart) == 1


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


def _features(tags: Sequence[frozenset[int]]) -> Reading:
    """Which meanings there are, which follow which closely, at all or next, how much is known.

    Next is what follows when words that say nothing are passed over.
    """
    size, found, last = TAGS * TAGS, set[int](), frozenset[int]()
    for place, own in enumerate(tags):
        found |= own
        for far, other in enumerate(tags[place + 1 : place + 1 + FAR]):
            for pair in (TAGS + first * TAGS + second for first in own for second in other):
                found.add(pair + size)
                if far < NEAR:
                    found.add(pair)
        if own != _PLAIN:
            found |= {TAGS + 2 * size + first * TAGS + second for first in last for second in own}
            last = own
    unknown = sum(_UNKNOWN in tag for tag in tags)
    shares = {
        WIDTH - 3: unknown / len(tags),
        WIDTH - 2: min(unknown, 8) / 8,
        WIDTH - 1: min(len(tags), 24) / 24,
    }
    marks = sorted(found)
    places = [*marks, *(place for place, value in shares.items() if value)]
    values = np.ones(len(places), np.float32)
    values[len(marks) :] = [value for value in shares.values() if value]
    return Reading(np.array(places, np.int32), values)
