"""VIEScore as GEdit-Bench counts it: two questions, four numbers, SC, PQ and O.

SC is the smaller of edit success and restraint, PQ the smaller of naturalness and freedom from
artefacts, and O the root of SC times PQ, item by item. The questions are worded anew: figures of
another wording, or of another model, are not comparable to the last decimal.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from kontext.data.chat.prompts import Prompt
from kontext.evaluate.judges.base import Reply, Rubric, Shown, numbers_between

CHANGES_RESULTS = False  # for users; no stage runs a public bench

_EDIT = """You are a strict judge of picture editors. You are shown a picture (source), the
instruction that an editor was given, and what the editor made of it (edited). Answer with one JSON
object.
"reasons": first say, in a few sentences, what differs between source and edited, what the
instruction asks for, and what was changed that it does not ask for.
Then give whole numbers from 0 to 10:
"success": 10 where edited shows just what the instruction asks for; 5 where it does in part; 0
where it does not, or where nothing was changed.
"restraint": 10 where all that the instruction does not ask for is as it was in source; 0 where
edited is another picture.
A number about one of the two must not depend on the other."""
QUALITY = """You are a strict judge of pictures. You are shown one picture. Whether it is what
somebody wanted does not matter here. Answer with one JSON object.
"reasons": first say, in a few sentences, what looks wrong in it, and where.
Then give whole numbers from 0 to 10:
"natural": 10 where light, shadows, proportions and places of things fit together; 0 where nothing
does.
"clean": 10 where there are no seams, blurs, garbled texts, broken faces, limbs or things, and no
watermarks; 0 where they are all over it."""
TOP = 10


class EditReply(Reply):
    """Of the first question."""

    success: int = Field(description="0 to 10")
    restraint: int = Field(description="0 to 10")


class QualityReply(Reply):
    """Of the second, which is shown the result alone."""

    natural: int = Field(description="0 to 10")
    clean: int = Field(description="0 to 10")


def questions(shown: Shown) -> list[Prompt[Any]]:
    """About the edit, and about the picture."""
    edit: Prompt[Any] = Prompt(
        key=shown.item,
        kind="viescore_edit",
        system=_EDIT,
        text=json.dumps({"instruction": shown.instruction}, ensure_ascii=False),
        pictures=(("source", shown.context), ("edited", shown.output)),
        answer=EditReply,
        check=numbers_between(0, TOP),
    )
    return [edit, about_quality(shown)]


def about_quality(shown: Shown) -> Prompt[Any]:
    """The question about the picture alone."""
    return Prompt(
        key=shown.item,
        kind="viescore_quality",
        system=QUALITY,
        text="Judge this picture.",
        pictures=(("picture", shown.output),),
        answer=QualityReply,
        check=numbers_between(0, TOP),
    )


def viescore(answers: Sequence[Any]) -> Mapping[str, float]:
    """SC, PQ and O of an item, with the numbers they are made of. All 0 to 10."""
    edit, quality = answers
    sc, pq = min(edit.success, edit.restraint), min(quality.natural, quality.clean)
    return {
        "sc": sc,
        "pq": pq,
        "o": math.sqrt(sc * pq),
        "success": edit.success,
        "restraint": edit.restraint,
        "natural": quality.natural,
        "clean": quality.clean,
    }


RUBRIC = Rubric(
    title="VIEScore",
    ask=questions,
    score=viescore,
    scores={
        "sc": "SC",
        "pq": "PQ",
        "o": "O",
        "success": "success",
        "restraint": "restraint",
        "natural": "natural",
        "clean": "clean",
    },
    printed=("sc", "pq", "o"),
    success="success",
    main="o",
    least=0,
    most=TOP,
)
