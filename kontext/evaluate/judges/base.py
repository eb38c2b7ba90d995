"""What a judge is shown, and what a rubric is: questions, and scores from their answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from kontext.data.chat.answers import clean
from kontext.data.chat.prompts import Fault, Prompt

CHANGES_RESULTS = False  # for users; no stage runs a public bench


@dataclass(frozen=True)
class Shown:
    """One edit as a judge sees it. `context` and `output` are pixel ids; no context: drawn from
    words. `canary` is set where the answer is known: `identity` did nothing, `oracle` all.
    """

    item: str
    instruction: str
    output: str
    context: str = ""
    rubric: str = ""
    canary: str = ""


class Reply(BaseModel):
    """An answer: reasons first, then whole numbers. Strict: `"7"` and 7.5 are no such number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reasons: str

    @field_validator("reasons")
    @classmethod
    def _one_line(cls, text: str) -> str:
        return clean(text)


@dataclass(frozen=True)
class Rubric:
    """How a model scores an edit.

    ask: an edit -> questions, each about an `item`. score: the questions' answers, in that order ->
    a value for every name in `scores`. printed: those that a table has. success: the score by which
    canaries are judged; main: the one that papers print; most: the best value of both, least the
    worst.
    """

    title: str
    ask: Callable[[Shown], list[Prompt[Any]]]
    score: Callable[[Sequence[Any]], Mapping[str, float]]
    scores: Mapping[str, str]  # name -> heading
    printed: tuple[str, ...]
    success: str
    main: str
    least: float
    most: float

    def low(self, value: float) -> bool:
        """Whether a success is as low as that of an edit that did nothing has to be."""
        return value <= self.least + 0.3 * (self.most - self.least)

    def high(self, value: float) -> bool:
        """Whether it is as high as that of the true target has to be."""
        return value >= self.least + 0.7 * (self.most - self.least)


def numbers_between(least: int, most: int) -> Callable[[BaseModel], Fault | None]:
    """A check that every number of an answer is in a range."""

    def check(reply: BaseModel) -> Fault | None:
        for name, value in reply:
            if isinstance(value, int) and not least <= value <= most:
                says = f"{name} is not a whole number from {least} to {most}"
                return Fault("malformed", says)
        return None

    return check
