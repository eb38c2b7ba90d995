"""A model judges edits: does the instruction fit the two pictures, and only these?

It sees the pictures and the instruction, never the labels. A judge that likes everything is of no
use, so it is asked twice more: with another pair's instruction, and with the pictures swapped. The
gaps say how far it can be believed. Scores are raw; limits are the policy's (`judge_follow_min` and
others, in the view `acceptance`).
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, field_validator

from kontext.data.caption.asking import ask
from kontext.data.caption.base import Caption, CaptionRequest, Desk, Judged
from kontext.data.chat.answers import clean
from kontext.data.chat.prompts import Answer, Fault, Prompt
from kontext.data.sources.stable import choose, stable_hash
from schemas.sections.data import CaptionConfig
from schemas.tables import JUDGEMENTS

_SYSTEM = """You check the work of a picture editor. You are shown the pictures before an edit
(context), the picture after it (target), and the instruction that was given. Answer with one JSON
object.
First look: in "reasons", say in a few sentences what differs between context and target, and
whether the instruction asks for just that. Then give whole numbers from 1 to 5:
"follow": 5 where target shows exactly what the instruction asks for; 3 where it does in part; 1
where it does not, where it was so before, or where the instruction is about something else.
"preserve": 5 where all that the instruction does not name is as it was; 1 where target is another
picture.
"quality": 5 where target has no visible fault; 1 where it is broken.
Be strict: many of the instructions that you are shown do not belong to the pictures."""
_KINDS = ("judge", "judge_shuffled", "judge_swapped")


class Verdict(BaseModel):
    """The answer about a pair."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reasons: str
    follow: int = Field(description="1 to 5")
    preserve: int = Field(description="1 to 5")
    quality: int = Field(description="1 to 5")

    @field_validator("reasons")
    @classmethod
    def _one_line(cls, text: str) -> str:
        return clean(text)


@dataclass(frozen=True)
class ModelJudge:
    """The judge of a recipe's section."""

    config: CaptionConfig

    @property
    def model(self) -> str:
        """The model that judges."""
        return self.config.judge_model or self.config.model

    def judge_all(
        self, requests: Sequence[CaptionRequest], captions: Sequence[Caption], desk: Desk
    ) -> Judged:
        """See `Judge`."""
        edits = [
            (request, caption.instruction)
            for request, caption in zip(requests, captions, strict=True)
            if request.contexts and caption.status == "ok"
        ]
        others = other_instructions(edits, self.config.seed)
        questions = [
            _questions(request, instruction, other) if other is not None else []
            for (request, instruction), other in zip(edits, others, strict=True)
        ]
        prompts = [prompt for group in questions for prompt in group]
        asked = ask(self.config, desk, self.model, prompts, "questions to the judge")
        answers = iter(asked.answers)
        rows = [
            _row(request.pair_id, [next(answers) for _ in group], f"chat/{self.model}")
            for (request, _), group in zip(edits, questions, strict=True)
        ]
        return Judged(pa.Table.from_pylist(rows, JUDGEMENTS), asked.replies)


def judge(config: CaptionConfig) -> ModelJudge:
    """The judge that these settings describe."""
    return ModelJudge(config)


def _questions(request: CaptionRequest, instruction: str, other: str) -> list[Prompt[Verdict]]:
    """The question itself, with another pair's instruction, and with the pictures swapped."""
    context, target = request.contexts[0].pixel_id, request.target.pixel_id
    more = tuple(("more context", image.pixel_id) for image in request.contexts[1:])
    shown = (("context", context), *more, ("target", target))
    swapped = (("context", target), *more, ("target", context))
    wanted = (instruction, shown), (other, shown), (instruction, swapped)
    return [
        Prompt(
            key=request.pair_id,
            kind=kind,
            system=_SYSTEM,
            text=json.dumps({"instruction": words}, ensure_ascii=False),
            pictures=pictures,
            answer=Verdict,
            check=_check,
        )
        for kind, (words, pictures) in zip(_KINDS, wanted, strict=True)
    ]


def other_instructions(edits: Sequence[tuple[CaptionRequest, str]], seed: int) -> list[str | None]:
    """For each edit an instruction of another one, by hash of pair and seed.

    Of another relation where there is one: the same relation may say the same in other words. None
    where all instructions are equal.
    """
    by_relation: dict[str, set[str]] = defaultdict(set)
    for request, instruction in edits:
        by_relation[request.relation].add(instruction)
    said = {relation: sorted(words) for relation, words in sorted(by_relation.items())}
    found: list[str | None] = []
    for request, instruction in edits:
        others = [relation for relation in said if relation != request.relation]
        chosen = [choose(others, "relation", request.pair_id, seed)] if others else []
        options: list[str] = []
        for words in (said[relation] for relation in (*chosen, request.relation)):
            first = stable_hash("other instruction", request.pair_id, seed) % len(words)
            options += (words[first], words[(first + 1) % len(words)])
        found.append(next((each for each in options if each != instruction), None))
    return found


def _check(verdict: Verdict) -> Fault | None:
    for name in ("follow", "preserve", "quality"):
        if not 1 <= getattr(verdict, name) <= 5:
            return Fault("malformed", f"{name} is not a whole number from 1 to 5")
    return None


def _row(pair_id: str, answers: Sequence[Answer[Verdict]], judge: str) -> dict[str, Any]:
    """A row of JUDGEMENTS. All questions must be answered, or there are no scores at all."""
    row: dict[str, Any] = {"pair_id": pair_id, "judge": judge, "status": "ok", "problem": ""}
    if not answers:
        return {**row, "status": "no_control", "problem": "no other instruction to compare with"}
    bad = next((answer for answer in answers if answer.value is None), None)
    if bad is not None:
        return {**row, "status": bad.status, "problem": bad.problem}
    true, shuffled, swapped = (answer.value for answer in answers)
    assert true and shuffled and swapped
    return {
        **row,
        "follow": true.follow,
        "preserve": true.preserve,
        "quality": true.quality,
        "follow_shuffled": shuffled.follow,
        "follow_swapped": swapped.follow,
        "shuffled_gap": true.follow - shuffled.follow,
        "swapped_gap": true.follow - swapped.follow,
    }
