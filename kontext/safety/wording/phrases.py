"""The training set: phrasings by several authors, captions, and phrases of templates.

Authors wrote pairs of an attack and a benign twin (`phrasings/*.jsonl`), each without knowing the
others' or the rules; two wrote what passes alone. Captions are what the product itself says
(`captions.txt`). Templates are those of `training.txt`, whose slots are filled in: some of each
language, drawn by a hash, so the set is the same on every machine. What the evaluation set has
too is left out.
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

from kontext.safety.text import shown_text, spellings

CHANGES_RESULTS = False  # makes the weights, which count as a file

PER_TEMPLATE = 6
TEMPLATES = 1750  # phrases of templates in English, and as many in all other languages
_SLOT = re.compile(r"\{(\w+)\}")
CAPTION, TEMPLATE = "{caption}", "{template}"  # authors of what nobody wrote as a phrasing


class Phrase(NamedTuple):
    """A phrase, and what becomes of it."""

    text: str
    stops: bool
    language: str
    author: str


@cache
def phrases() -> tuple[Phrase, ...]:
    """All phrases, each once. What is in the evaluation set under some spelling is not."""
    known = {one for text in evaluation_texts() for one in (shown_text(text), *spellings(text))}
    found: dict[str, Phrase] = {}
    for phrase in (*written(), *_captions(), *_drawn()):
        shown = shown_text(phrase.text)
        if shown and not known & {shown, *spellings(phrase.text)}:
            found.setdefault(shown, phrase)
    return tuple(found.values())


def authors() -> list[str]:
    """Names of those who wrote phrasings."""
    return sorted({phrase.author for phrase in written()})


def training_digest() -> str:
    """SHA-256 of the training set."""
    rows = [json.dumps([p.text, p.stops], ensure_ascii=False) for p in phrases()]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def evaluation_texts() -> list[str]:
    """The texts that must not be trained on."""
    lines = resources.files("kontext.safety.text_test").joinpath("phrasings.jsonl")
    return [json.loads(line)["text"] for line in lines.read_text("utf-8").splitlines()]


@cache
def written() -> tuple[Phrase, ...]:
    """What authors wrote: `phrasings/AUTHOR.jsonl`."""
    folder = resources.files("kontext.safety.wording").joinpath("phrasings")
    found = list[Phrase]()
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        author = file.name.removesuffix(".jsonl")
        for row in map(json.loads, file.read_text("utf-8").splitlines()):
            found.append(Phrase(row["text"], row["intent"] == "stop", row["language"], author))
    return tuple(found)


def _drawn() -> list[Phrase]:
    """Phrases of templates: as many in English as in all other languages."""
    found = sorted(_from_templates(), key=lambda p: hashlib.sha256(p.text.encode()).digest())
    english = [phrase for phrase in found if phrase.language == "en"]
    others = [phrase for phrase in found if phrase.language != "en"]
    return english[:TEMPLATES] + others[:TEMPLATES]


def _from_templates() -> Iterator[Phrase]:
    text = resources.files("kontext.safety.wording").joinpath("training.txt").read_text("utf-8")
    language, slots = "", defaultdict[str, dict[str, list[str]]](dict)
    for line in text.splitlines():
        kind, rest = line[:1], line[1:]
        if kind == "@":
            language = rest.strip()
        elif kind == "$":
            name, _, values = rest.partition("=")
            slots[language][name.strip()] = [value.strip() for value in values.split(" | ")]
        elif kind in ("+", "-"):
            for template in (part.strip() for part in rest.split(" | ")):
                for filled in _filled(template, slots[language]):
                    yield Phrase(filled, kind == "+", language, TEMPLATE)


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
        yield Phrase(line, False, "en", CAPTION)
