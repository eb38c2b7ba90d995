"""ImgEdit-Bench's rubrics: one text for each type of edit, three whole numbers from 1 to 5.

The text comes with the data, as `Shown.rubric`. An item's score is the mean of its three numbers,
rounded to two decimals as the set's own code does. The second and third are not to be above the
first; the set's code does not enforce that, and neither does this: `overrun` says how often.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from kontext.data.chat.prompts import Prompt
from kontext.evaluate.judges.base import Reply, Rubric, Shown, numbers_between

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_MARK = "<edit_prompt>"  # where the set's texts want the instruction
_FORM = """Where the text above asks for another form of answer: answer with one JSON object.
"reasons": the brief reasoning. "first", "second", "third": the three scores, in the order in which
the text above lists them, as whole numbers from 1 to 5. The second and the third must not be above
the first."""


class ImgEditReply(Reply):
    """Three scores."""

    first: int = Field(description="1 to 5")
    second: int = Field(description="1 to 5")
    third: int = Field(description="1 to 5")


def questions(shown: Shown) -> list[Prompt[Any]]:
    """The one question, with the rubric of the edit's type."""
    return [
        Prompt(
            key=shown.item,
            kind="imgedit",
            system=shown.rubric.replace(_MARK, "(the instruction below)") + "\n" + _FORM,
            text=json.dumps({"instruction": shown.instruction}, ensure_ascii=False),
            pictures=(("original", shown.context), ("edited", shown.output)),
            answer=ImgEditReply,
            check=numbers_between(1, 5),
        )
    ]


def score(answers: Sequence[Any]) -> Mapping[str, float]:
    """Of an item: the mean, the three numbers, and 1 where the rule on them is broken."""
    (reply,) = answers
    numbers = (reply.first, reply.second, reply.third)
    return {
        "score": round(sum(numbers) / 3, 2),
        "first": reply.first,
        "second": reply.second,
        "third": reply.third,
        "overrun": float(max(numbers) > reply.first),
    }


RUBRIC = Rubric(
    title="ImgEdit",
    ask=questions,
    score=score,
    scores={
        "score": "score",
        "first": "compliance",
        "second": "seamlessness",
        "third": "fidelity",
        "overrun": "overrun",
    },
    printed=("first", "second", "third", "score"),
    success="first",
    main="score",
    least=1,
    most=5,
)
