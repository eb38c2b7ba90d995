"""The training set: phrases of `training.txt`, whose slots are filled in, captions and emoji names.

A template gives at most `PER_TEMPLATE` phrases, drawn by a hash of the template, so the set is the
same on every machine. What the evaluation set has too is left out.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import NamedTuple

from kontext.safety.text import spellings

CHANGES_RESULTS = False  # makes the weights, which count as a file

PER_TEMPLATE = 24
_SLOT = re.compile(r"\{(\w+)\}")
_NAMES = (*range(0x1F300, 0x1F650), *range(0x1F900, 0x1FA00))  # emoji of every Python: they pass
TUNING = 5  # one template in five is for tuning, not for training


class Phrase(NamedTuple):
    """A phrase, and what becomes of it."""

    text: str
    stops: bool
    language: str
    template: str

    @property
    def tunes(self) -> bool:
        """Whether its template is kept for tuning."""
        digest = hashlib.sha256(f"{self.language} {self.template}".encode()).digest()
        return digest[0] % TUNING == 0


@cache
def phrases() -> tuple[Phrase, ...]:
    """All phrases, each once. What is in the evaluation set under some spelling is not."""
    known = {spelled for text in evaluation_texts() for spelled in spellings(text)}
    found: dict[str, Phrase] = {}
    for phrase in (*_written(), *_captions(), *_emoji()):
        spelled = spellings(phrase.text)
        if not known & set(spelled):
            found.setdefault(spelled[0], phrase)
    return tuple(found.values())


def training_digest() -> str:
    """SHA-256 of the training set."""
    rows = [json.dumps([p.text, p.stops, p.tunes], ensure_ascii=False) for p in phrases()]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def evaluation_texts() -> list[str]:
    """The texts that must not be trained on."""
    lines = resources.files("kontext.safety.text_test").joinpath("phrasings.jsonl")
    return [json.loads(line)["text"] for line in lines.read_text("utf-8").splitlines()]


def _written() -> Iterator[Phrase]:
    text = resources.files("kontext.safety.wording").joinpath("training.txt").read_text("utf-8")
    language, slots = "", dict[str, list[str]]()
    for line in text.splitlines():
        if line.startswith("@"):
            language, slots = line[1:].strip(), {}
        elif line.startswith("$"):
            name, _, values = line[1:].partition("=")
            slots[name.strip()] = [value.strip() for value in values.split(" | ")]
        elif line[:1] in ("+", "-"):
            for template in line[1:].split(" | "):
                for filled in _filled(template.strip(), slots):
                    yield Phrase(filled, line[0] == "+", language, template.strip())


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
