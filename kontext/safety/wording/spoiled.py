"""Training phrases as somebody types them who wants to pass, or who types badly."""

import random
import unicodedata
from collections.abc import Callable

CHANGES_RESULTS = False  # makes the weights, which count as a file

_LOOK = str.maketrans("aceopxyijs", "асеорхуіјѕ")
_FIGURES = str.maketrans("oieast", "013457")
_HIDDEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_SHORT = 4  # letters of a word that is left as it is


def hidden(text: str, draw: random.Random) -> str:
    """Some words with letters apart, cut, masked, repeated, or with other signs for letters."""
    words = text.split()
    long = [n for n, word in enumerate(words) if len(word) >= _SHORT and word.isalpha()]
    way = draw.choice(_WAYS)
    draw.shuffle(long)
    for place in long[: draw.choice((1, 1, 2, 3))]:
        words[place] = way(words[place], draw)
    return " ".join(words)


def slipped(text: str, draw: random.Random) -> str:
    """One or two letters exchanged, left out or doubled."""
    letters = list(text)
    for _ in range(draw.choice((1, 1, 2))):
        if len(letters) < 6:
            break
        place = draw.randrange(1, len(letters) - 2)
        if not (letters[place].isalpha() and letters[place + 1].isalpha()):
            continue
        kind = draw.randrange(3)
        if kind == 0:
            letters[place : place + 2] = letters[place + 1], letters[place]
        elif kind == 1:
            del letters[place]
        else:
            letters.insert(place, letters[place])
    return "".join(letters)


def unmarked(text: str) -> str:
    """Without accents, as on a keyboard that lacks them."""
    parts = unicodedata.normalize("NFD", text)
    return "".join(c for c in parts if unicodedata.category(c) != "Mn")


def _apart(word: str, draw: random.Random) -> str:
    return draw.choice((" ", ".", "-", "_", "*")).join(word)


def _cut(word: str, draw: random.Random) -> str:
    place = draw.randrange(1, len(word))
    return word[:place] + draw.choice((" ", "-", ".")) + word[place:]


def _masked(word: str, draw: random.Random) -> str:
    place = draw.randrange(1, len(word) - 1)
    return word[:place] + draw.choice("*#") + word[place + 1 :]


def _some(table: dict[int, int]) -> Callable[[str, random.Random], str]:
    def made(word: str, draw: random.Random) -> str:
        return "".join(c.translate(table) if draw.random() < 0.7 else c for c in word.lower())

    return made


def _invisible(word: str, draw: random.Random) -> str:
    return "".join(c + (draw.choice(_HIDDEN) if draw.random() < 0.5 else "") for c in word)


def _drawn_out(word: str, draw: random.Random) -> str:
    return "".join(c * draw.choice((1, 1, 3)) for c in word)


_WAYS = (_apart, _cut, _masked, _some(_LOOK), _some(_FIGURES), _invisible, _drawn_out)
