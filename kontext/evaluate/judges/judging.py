"""Judges at work: every question is asked of every judge in every pass, and what came is a row.

An answer that cannot be used, a refusal and a used-up budget leave the scores empty: they are
counted, never guessed. Replies are kept in the home, so that nothing is paid for twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kontext.data.caption.asking import ask
from kontext.data.caption.base import Desk
from kontext.data.chat.prompts import Answer, Prompt
from kontext.errors import BenchError
from kontext.evaluate.judges.base import Rubric, Shown
from kontext.evaluate.judges.pairwise import Duel, both_orders, outcome
from schemas.discovery import plugins
from schemas.sections.data import CaptionConfig
from schemas.words import unknown

CHANGES_RESULTS = False  # for users; no stage runs a public bench

Scorer = Callable[[Sequence[Any]], Mapping[str, float]]


@dataclass(frozen=True)
class Judges:
    """Which models judge, and how they are asked.

    models: as the endpoint names them, the one whose scores are printed first. passes: times that
    each question is asked, with another seed each time. The budget is for all of it.
    """

    models: tuple[str, ...]
    endpoint: str
    passes: int = 1
    seed: int = 0
    parallel: int = 8
    budget_tokens: int = 0
    budget_requests: int = 0
    tries: int = 6
    first_wait: float = 1.0
    request: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises BenchError: no endpoint, no model, one twice, or no pass."""
        if not self.models or not self.endpoint:
            raise BenchError("a judge needs a model (--judge) and an endpoint (--endpoint)")
        if len(set(self.models)) < len(self.models) or self.passes < 1:
            raise BenchError("every judge is named once, and there is at least one pass")

    def config(self, number: int) -> CaptionConfig:
        """Settings of the chat backend for pass `number` from 0."""
        return CaptionConfig(
            endpoint=self.endpoint,
            model=self.models[0],
            seed=self.seed + number,
            parallel=self.parallel,
            budget_tokens=self.budget_tokens,
            budget_requests=self.budget_requests,
            tries=self.tries,
            first_wait=self.first_wait,
            request=dict(self.request),
        )


@dataclass(frozen=True)
class Said:
    """What came of one question. `request` finds its rows in REPLIES, which another may share."""

    kind: str  # of the question
    request: str
    status: str
    problem: str
    parsed: Mapping[str, Any]  # the answer's fields; empty where it cannot be used


@dataclass
class Verdicts:
    """`rows`: one for each thing judged, judge and pass. `replies`: all that was sent, as REPLIES.

    `said`: of each row what its questions gave, in the order asked.
    `wordings`: SHA-256 of every question's fixed words and wanted shape, by its kind.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    replies: list[pa.Table] = field(default_factory=list)
    said: list[tuple[Said, ...]] = field(default_factory=list)
    wordings: dict[str, list[str]] = field(default_factory=dict)


def rubric_named(name: str) -> Rubric:
    """A rubric, found by file. Raises BenchError."""
    known = plugins("kontext.evaluate.judges", "RUBRIC")
    if name not in known:
        raise BenchError(unknown("rubric", name, known))
    found: Rubric = known[name].RUBRIC
    return found


def judge_all(rubric: Rubric, shown: Sequence[Shown], judges: Judges, desk: Desk) -> Verdicts:
    """Scores of edits. Rows have item, canary, judge, pass, status, problem and the scores.

    Raises:
        KontextError, GateError, Stopped: as the captioner (`kontext.data.caption.asking.ask`).
    """
    about = [{"item": one.item, "canary": one.canary} for one in shown]
    empty = dict.fromkeys(rubric.scores)
    return _asked(about, list(map(rubric.ask, shown)), rubric.score, empty, judges, desk)


def compare_all(duels: Sequence[Duel], judges: Judges, desk: Desk) -> Verdicts:
    """Which of two edits is better. Rows as those of `judge_all`, with `win` and `contradicted`."""
    about = [{"item": duel.item, "canary": ""} for duel in duels]
    empty: dict[str, float | None] = {"win": None, "contradicted": None}
    return _asked(about, list(map(both_orders, duels)), outcome, empty, judges, desk)


def _asked(
    about: Sequence[Mapping[str, Any]],
    questions: Sequence[Sequence[Prompt[Any]]],
    score: Scorer,
    empty: Mapping[str, float | None],
    judges: Judges,
    desk: Desk,
) -> Verdicts:
    found = Verdicts()
    prompts = [prompt for group in questions for prompt in group]
    for prompt in prompts:
        kinds = found.wordings.setdefault(prompt.kind, [])
        if (wording := prompt.wording()) not in kinds:
            kinds.append(wording)
    for model in judges.models:
        for number in range(judges.passes):
            what = f"questions to {model}, pass {number + 1} of {judges.passes}"
            asked = ask(judges.config(number), desk, model, prompts, what)
            found.replies.append(asked.replies)
            answers = iter(asked.answers)
            for subject, group in zip(about, questions, strict=True):
                own = [next(answers) for _ in group]
                row = {**subject, "judge": model, "pass": number}
                found.rows.append(row | _scored(own, score, empty))
                found.said.append(tuple(map(_said, group, own)))
    return found


def _said(prompt: Prompt[Any], answer: Answer[Any]) -> Said:
    parsed = {} if answer.value is None else answer.value.model_dump()
    return Said(prompt.kind, answer.request, answer.status, answer.problem, parsed)


def _scored(
    answers: Sequence[Answer[Any]], score: Scorer, empty: Mapping[str, float | None]
) -> dict[str, Any]:
    """All of an edit's questions must be answered, or it has no scores at all."""
    bad = next((answer for answer in answers if answer.value is None), None)
    if bad is not None:
        return {"status": bad.status, "problem": bad.problem, **empty}
    return {"status": "ok", "problem": "", **score([answer.value for answer in answers])}
