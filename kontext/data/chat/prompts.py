"""What a chat model is asked and what comes of it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel

Status = Literal[
    "ok",
    "refused",  # by the model, or by the server's content filter
    "malformed",  # no JSON object of the wanted shape
    "empty",  # a text is missing, or says "none"
    "too_long",  # a text has more words than wanted
    "truncated",  # the answer was cut at its limit of tokens
    "failed",  # the server refuses this request, and would again
    "unanswered",  # no answer for a reason that may pass: asked again by the next run
    "budget",  # not asked: the recipe's budget was used up
    "picture_refused",  # not asked: the policy refuses one of its pictures
    "text_undress",  # and others: the rules on text refuse what was written
    "text_nudity",
    "text_sexual",
    "text_minor_sexual",
    "text_unreadable",
]
_LIMITS = ("max_tokens", "max_completion_tokens")  # a request's fields
Picture = Callable[[str], str]  # pixel id -> address of the picture
A = TypeVar("A", bound=BaseModel)


class Fault(NamedTuple):
    """Why there is no answer."""

    status: Status
    problem: str  # one line for people, and for the model that is asked again


@dataclass(frozen=True)
class Prompt(Generic[A]):
    """One question. Equal questions (but for `key`) are asked once."""

    key: str  # the pair it is about
    kind: str  # what it is for, e.g. `caption`
    system: str
    text: str
    pictures: tuple[tuple[str, str], ...]  # (what it is, pixel id), in the order shown
    answer: type[A]  # its fields are the wanted JSON object, in that order
    check: Callable[[A], Fault | None]  # what the shape cannot say

    def shape(self) -> dict[str, Any]:
        """JSON schema of the wanted object: all fields, also those that may be missing in the end.

        Strict servers refuse a schema with optional fields or defaults.
        """
        schema = self.answer.model_json_schema()
        fields = {
            name: {key: value for key, value in field.items() if key != "default"}
            for name, field in schema["properties"].items()
        }
        return {**schema, "properties": fields, "required": list(fields)}

    def wording(self) -> str:
        """SHA-256 of what is the same for every pair: instructions and wanted shape."""
        return _sha256([self.system, self.shape()])

    def messages(self, picture: Picture) -> list[dict[str, Any]]:
        """The conversation so far, as the endpoint wants it."""
        content: list[dict[str, Any]] = [{"type": "text", "text": self.text}]
        for what, pixel_id in self.pictures:
            content.append({"type": "text", "text": f"{what}:"})
            content.append({"type": "image_url", "image_url": {"url": picture(pixel_id)}})
        return [{"role": "system", "content": self.system}, {"role": "user", "content": content}]


@dataclass(frozen=True)
class Answer(Generic[A]):
    """What came of a prompt. `value` is there where the status is `ok`, and nowhere else."""

    request: str  # digest of what was asked, see `Wire.digest`
    status: Status
    problem: str = ""
    value: A | None = None


@dataclass(frozen=True)
class Wire:
    """How prompts become requests of one model."""

    model: str
    seed: int
    answer_tokens: int
    fields: tuple[tuple[str, Any], ...] = ()  # further ones; None takes one away

    def body(
        self, prompt: Prompt[Any], picture: Picture, more: tuple[dict[str, Any], ...] = ()
    ) -> dict[str, Any]:
        """The request's JSON; `more` are messages after the prompt's own."""
        schema = {"name": prompt.kind, "strict": True, "schema": prompt.shape()}
        body = {
            "model": self.model,
            "messages": [*prompt.messages(picture), *more],
            "temperature": 0,
            "seed": self.seed,
            "max_tokens": self.answer_tokens,
            "response_format": {"type": "json_schema", "json_schema": schema},
            **dict(self.fields),
        }
        return {name: value for name, value in body.items() if value is not None}

    def longest_answer(self) -> int:
        """Tokens of an answer, at most, also where a further field says so."""
        said = [value for name, value in self.fields if name in _LIMITS]
        return max(self.answer_tokens, *(v for v in said if isinstance(v, int)), 0)

    def digest(self, prompt: Prompt[Any]) -> str:
        """SHA-256 of model, words, settings and the pictures' pixel ids. Not of the address."""
        return _sha256(self.body(prompt, "pixels:{}".format))


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
