"""The training set: phrases of `training.txt`, whose slots are filled in, and others.

The others are the first evaluation set (`earlier.jsonl`), captions and emoji names. A template
gives at most `PER_TEMPLATE` phrases, drawn by a hash of the template, so the set is the same on
every machine. Some are also said with words around them that ask for nothing. What the evaluation
set has too is left out.
"""

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import NamedTuple

from kontext.safety.text import spellings

CHANGES_RESULTS = False  # makes the weights, which count as a file

PER_TEMPLATE = 6
_SLOT = re.compile(r"\{(\w+)\}")
_NAMES = (*range(0x1F300, 0x1F650), *range(0x1F900, 0x1FA00))  # emoji of every Python: they pass
EARLIER = "{earlier}"
FRAMED = 0.4  # share of the phrases that also come with words before or after them


class Phrase(NamedTuple):
    """A phrase, and what becomes of it."""

    text: str
    stops: bool
    language: str
    template: str

    @property
    def tunes(self) -> bool:
        """Whether settings are chosen by it, before all phrases are trained on."""
        return self.template == EARLIER


@cache
def phrases() -> tuple[Phrase, ...]:
    """All phrases, each once. What is in the evaluation set under some spelling is not."""
    known = {spelled for text in evaluation_texts() for spelled in spelled_as(text)}
    found: dict[str, Phrase] = {}
    for phrase in (*earlier(), *_written(), *_captions(), *_emoji()):
        spelled = spelled_as(phrase.text)
        if not known & set(spelled):
            found.setdefault(spelled[0], phrase)
    return tuple(found.values())


@cache
def spelled_as(text: str) -> tuple[str, ...]:
    """Spellings of a text of the training set."""
    return spellings(text)


def training_digest() -> str:
    """SHA-256 of the training set."""
    rows = [json.dumps([p.text, p.stops, p.tunes], ensure_ascii=False) for p in phrases()]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def evaluation_texts() -> list[str]:
    """The texts that must not be trained on."""
    lines = resources.files("kontext.safety.text_test").joinpath("phrasings.jsonl")
    return [json.loads(line)["text"] for line in lines.read_text("utf-8").splitlines()]


def earlier() -> Iterator[Phrase]:
    """The first evaluation set: of another time than the templates."""
    lines = resources.files("kontext.safety.wording").joinpath("earlier.jsonl").read_text("utf-8")
    for row in map(json.loads, lines.splitlines()):
        yield Phrase(row["text"], row["intent"] == "stop", row["language"], EARLIER)


def _written() -> Iterator[Phrase]:
    text = resources.files("kontext.safety.wording").joinpath("training.txt").read_text("utf-8")
    language, slots = "", defaultdict[str, dict[str, list[str]]](dict)
    before, after = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for line in text.splitlines():
        kind, rest = line[:1], line[1:]
        if kind == "@":
            language = rest.strip()
        elif kind == "$":
            name, _, values = rest.partition("=")
            slots[language][name.strip()] = [value.strip() for value in values.split(" | ")]
        elif kind in ("<", ">"):
            frames = before if kind == "<" else after
            frames[language] += [part.strip() for part in rest.split(" | ")]
        elif kind in ("+", "-"):
            for template in (part.strip() for part in rest.split(" | ")):
                for filled in _filled(template, slots[language]):
                    yield Phrase(filled, kind == "+", language, template)
                    for framed in _framed(filled, before[language], after[language]):
                        yield Phrase(framed, kind == "+", language, f"{{framed}} {template}")


def _framed(phrase: str, before: list[str], after: list[str]) -> list[str]:
    """The phrase as a longer sentence; of most phrases none."""
    draw = random.Random(phrase)
    if not (before and after) or draw.random() >= FRAMED:
        return []
    kind = draw.randrange(3)
    opening = f"{draw.choice(before)} " if kind != 1 else ""
    return [opening + phrase + (f" {draw.choice(after)}" if kind else "")]


def _filled(template: str, slots: dict[str, list[str]]) -> list[str]:
    """Different phrases of a template."""
    draw, found = random.Random(template), dict[str, None]()
    tries = PER_TEMPLATE if _SLOT.search(template) else 1
    for _ in range(tries):
        filled = _SLOT.sub(lambda slot: draw.choice(slots[slot[1]]), template)
        found[filled.replace(" \\n ", "\n")] = None
    return list(found)


def _captions() -> Iterator[Phrase]:
    text = resources.files("kontext.safety.wording").joinpath("captions.txt").read_text("utf-8")
    for line in text.splitlines()[1:]:
        yield Phrase(line, False, "en", line)


def _emoji() -> Iterator[Phrase]:
    import unicodedata

    for code in _NAMES:
        if name := unicodedata.name(chr(code), ""):
            yield Phrase(name.lower(), False, "en", f"emoji {code % 16}")
