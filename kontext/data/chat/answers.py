"""From the text of a reply to a checked answer. What does not fit is a fault, never an answer."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from kontext.data.chat.prompts import A, Fault, Prompt

_MOST_TOKENS = 10**9  # a server that says more is not believed
_OBJECTS = 64  # places in an answer where an object may begin, at most


class _Part(BaseModel):
    text: str = ""


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class Usage(BaseModel):
    """Tokens that a request cost, as the server counts them."""

    prompt_tokens: int = Field(ge=0, le=_MOST_TOKENS)
    completion_tokens: int = Field(ge=0, le=_MOST_TOKENS)


class Completion(BaseModel):
    """The part of a chat completion that we read."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: Any = None

    def tokens(self) -> Usage | None:
        """What it cost; None where the server does not say."""
        try:
            return Usage.model_validate(self.usage)
        except ValidationError:
            return None

    def text(self) -> str:
        """The assistant's words."""
        content = self.choices[0].message.content
        if isinstance(content, list):
            return "".join(part.text for part in content)
        return content or ""


def completion(raw: str) -> Completion | None:
    """A reply's body as a chat completion; None where it is not one."""
    try:
        return Completion.model_validate_json(raw)
    except ValidationError:
        return None


class Read(NamedTuple):
    """An answer as read: a value or a fault."""

    value: Any
    fault: Fault | None


def read(raw: str, prompt: Prompt[A]) -> Read:
    """The answer in a chat completion's body."""
    found = completion(raw)
    if found is None:
        return Read(None, Fault("malformed", "the reply is no chat completion"))
    choice = found.choices[0]
    if choice.message.refusal:
        return Read(None, Fault("refused", _line(choice.message.refusal)))
    if choice.finish_reason == "content_filter":
        return Read(None, Fault("refused", "the server's content filter stopped the answer"))
    text = found.text()
    if not text.strip():
        cut = choice.finish_reason == "length"
        return Read(None, Fault("truncated" if cut else "empty", "the answer has no text"))
    value, problem = _value(text, prompt.answer)
    if value is None and choice.finish_reason == "length":
        return Read(None, Fault("truncated", "the answer was cut at its limit of tokens"))
    if value is None:
        return Read(None, Fault("malformed", problem))
    return Read(value, prompt.check(value))


def _value(text: str, wanted: type[A]) -> tuple[A | None, str]:
    """The one object of the wanted shape in `text`, or None and why not.

    Models put objects into fences and talk before and after them, so every object is looked at. Two
    different ones that fit are no answer: which one is meant?
    """
    fitting: list[A] = []
    problem = "it is no JSON object"
    for candidate in _objects(text.rpartition("</think>")[2]):
        try:
            value = wanted.model_validate(candidate)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            problem = _line(f"{where}: {first['msg']}")
        else:
            fitting += [] if value in fitting else [value]
    if len(fitting) == 1:
        return fitting[0], ""
    return None, "it has two different objects" if fitting else problem


def _objects(text: str) -> Iterator[Any]:
    """JSON objects in a text, those outside others only."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    position = 0
    for _ in range(_OBJECTS):
        start = text.find("{", position)
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(text, start)
            json.dumps(value, ensure_ascii=False).encode()  # half characters cannot be stored
        except (ValueError, RecursionError):
            position = start + 1
        else:
            position = end
            yield value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is there twice")
    return found


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """One line of words. Raises ValueError for control characters."""
    text = " ".join(text.split())
    if _CONTROL.search(text):
        raise ValueError("control characters")
    return text


def _line(text: str, longest: int = 200) -> str:
    return _CONTROL.sub(" ", " ".join(text.split()))[:longest]
