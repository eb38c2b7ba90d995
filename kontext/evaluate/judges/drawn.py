"""Pictures drawn from words: does it show what the text says, and is it a good picture?

O is the root of SC (0 to 10, the text alone) times PQ, as VIEScore has it for such pictures.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from kontext.data.chat.prompts import Prompt
from kontext.evaluate.judges.base import Reply, Rubric, Shown, numbers_between
from kontext.evaluate.judges.viescore import TOP, about_quality

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_TEXT = """You are a strict judge of picture generators. You are shown a text and the picture that
was drawn from it. Answer with one JSON object.
"reasons": first go through the text, and say of each thing, number, colour, place and word in it
whether the picture shows it.
Then give a whole number from 0 to 10:
"success": 10 where the picture shows all of it; 5 where it shows the main things and misses others;
0 where it shows something else."""


class TextReply(Reply):
    """Of the question about the text."""

    success: int = Field(description="0 to 10")


def questions(shown: Shown) -> list[Prompt[Any]]:
    """About the text, and about the picture."""
    text: Prompt[Any] = Prompt(
        key=shown.item,
        kind="drawn_text",
        system=_TEXT,
        text=json.dumps({"text": shown.instruction}, ensure_ascii=False),
        pictures=(("picture", shown.output),),
        answer=TextReply,
        check=numbers_between(0, TOP),
    )
    return [text, about_quality(shown)]


def score(answers: Sequence[Any]) -> Mapping[str, float]:
    """SC, PQ and O of an item. All 0 to 10."""
    text, quality = answers
    pq = min(quality.natural, quality.clean)
    return {"sc": text.success, "pq": pq, "o": math.sqrt(text.success * pq)}


RUBRIC = Rubric(
    title="VIEScore (drawn from words)",
    ask=questions,
    score=score,
    scores={"sc": "SC", "pq": "PQ", "o": "O"},
    printed=("sc", "pq", "o"),
    success="sc",
    main="o",
    least=0,
    most=TOP,
)
