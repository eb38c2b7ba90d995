"""Captions by a model that looks at the pictures, behind an OpenAI-compatible chat endpoint.

It sees context and target, says first what stays and what changed, and may refuse. Its answer is
checked: a text that is missing, too long or says "none" is a status of the row, never a caption.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from kontext.data.caption.base import Caption, Captioned, CaptionRequest, Desk, ImageFacts, failed
from kontext.data.caption.words import is_nothing
from kontext.data.chat.answers import clean
from kontext.data.chat.prompts import Answer, Fault, Prompt
from kontext.errors import RecipeError
from schemas.sections.data import CaptionConfig

_EDIT = """You write instructions that teach an image editor. You are shown the pictures before an
edit (context) and the picture after it (target), and told what their labels say. Trust the pictures
more than the labels. Answer with one JSON object.
First look: in "stays", list what is the same in context and target; in "changed", what is not.
"refuse": empty. Where target is no edit of the context, where nothing changed, or where you cannot
tell, it says why in one sentence, and all other texts are empty.
"instruction": what to do to the context to get the target, as a person would ask for it, in the
imperative. Name only what changed, so that it can be seen in the target.
"instruction_short": the same in the fewest words.
"instruction_inverse": what to do to the target to get the context back: a full instruction of its
own. Where something was added it removes that thing, by name; where something was removed it adds
it. Never write "none" or "undo".
"target_caption", "context_caption": what the target, and the first context, shows by itself.
Every text has at most {words} words."""
_SINGLE = """You write captions that teach an image generator. You are shown one picture, and told
what its labels say. Trust the picture more than the labels. Answer with one JSON object.
"refuse": empty. Where you cannot tell what the picture shows, it says why in one sentence, and the
other texts are empty.
"caption": what the picture shows. "caption_short": the same in the fewest words.
Every text has at most {words} words."""

_SAYS_NOTHING = {"none", "n/a", "na", "null", "nil", "nothing", "unknown", "undefined", "undo"} | {
    "not applicable",
    "no change",
    "no changes",
    "revert",
    "no instruction",
    "not possible",
}
_NO_REFUSAL = _SAYS_NOTHING | {"no", "false", "empty"}
_NONE = re.compile(r"(?<!\w)(?:none|null|n/a)(?!\w)", re.IGNORECASE)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|“[^”]*”|‘[^’]*’")  # words on signs may be any


class _Reply(BaseModel):
    """What both kinds of answers have. Strict: a number is no text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @field_validator("*")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        return [clean(each) for each in value] if isinstance(value, list) else clean(value)


class EditReply(_Reply):
    """The answer about a pair. All is asked for; the first three help to get the rest right."""

    stays: list[str] = []
    changed: list[str] = []
    refuse: str = ""
    instruction: str
    instruction_short: str
    instruction_inverse: str
    target_caption: str
    context_caption: str


class SingleReply(_Reply):
    """The answer about a picture without context."""

    refuse: str = ""
    caption: str
    caption_short: str


@dataclass(frozen=True)
class ChatCaptioner:
    """Captions by the model of a recipe's section."""

    config: CaptionConfig

    @property
    def id(self) -> str:
        """Name of captioner and model."""
        return f"chat/{self.config.model}"

    def caption_all(self, requests: Sequence[CaptionRequest], desk: Desk) -> Captioned:
        """See `RemoteCaptioner`."""
        from kontext.data.caption.asking import ask  # tables: every recipe reads this file

        prompts = [self.prompt(request) for request in requests]
        asked = ask(self.config, desk, self.config.model, prompts, "pairs")
        rows = zip(requests, asked.answers, strict=True)
        return Captioned([self.row(*row) for row in rows], asked.replies)

    def prompt(self, request: CaptionRequest) -> Prompt[Any]:
        """The question about one pair."""
        words = self.config.max_words
        count = len(request.contexts)
        names = ["context" if count == 1 else f"context {n + 1}" for n in range(count)]
        shown = zip((*names, "target"), (*request.contexts, request.target), strict=True)
        return Prompt(
            key=request.pair_id,
            kind="caption",
            system=(_EDIT if count else _SINGLE).format(words=words),
            text=_facts(request),
            pictures=tuple((name, image.pixel_id) for name, image in shown),
            answer=EditReply if count else SingleReply,
            check=partial(_check, words=words),
        )

    def row(self, request: CaptionRequest, answer: Answer[Any]) -> Caption:
        """What is stored: the texts, or the status that says why there are none."""
        reply = answer.value
        if isinstance(reply, EditReply):
            texts = (
                reply.instruction,
                reply.instruction_short,
                reply.instruction_inverse,
                reply.target_caption,
                reply.context_caption,
            )
        elif isinstance(reply, SingleReply):
            texts = (reply.caption, reply.caption_short, "", reply.caption, "")
        else:
            return failed(request, answer.status, self.id)
        return Caption(request.pair_id, *texts, f"{request.relation}/chat", "ok", self.id)


def captioner(config: CaptionConfig) -> ChatCaptioner:
    """The captioner `chat` of a recipe. Raises RecipeError without endpoint or model."""
    if not config.endpoint or not config.model:
        raise RecipeError("caption.captioner=chat needs caption.endpoint and caption.model")
    return ChatCaptioner(config)


def _check(reply: EditReply | SingleReply, words: int) -> Fault | None:
    """What is wrong with an answer of the right shape."""
    if reply.refuse and _bare(reply.refuse) not in _NO_REFUSAL:
        return Fault("refused", reply.refuse[:200])
    texts = reply.model_dump(exclude={"stays", "changed", "refuse"})
    for name, text in texts.items():
        if not text or _bare(text) in _SAYS_NOTHING:
            return Fault("empty", f"{name} says nothing")
        if _NONE.search(_QUOTED.sub("", text)):
            return Fault("empty", f"{name} says 'none' where it should say what to do or to see")
        count = len(text.split())
        if count > words:
            return Fault("too_long", f"{name} has {count} words, at most {words} are wanted")
    if isinstance(reply, EditReply):
        if "changed" in reply.model_fields_set and not any(reply.changed):
            return Fault("malformed", "changed names nothing, but there is an instruction")
        if reply.instruction.casefold() == reply.instruction_inverse.casefold():
            return Fault("malformed", "instruction_inverse is the instruction itself")
    return None


def _bare(text: str) -> str:
    return text.strip(" .!?-'\"()[]<>").casefold()


def _facts(request: CaptionRequest) -> str:
    """What is known in words. A label that means "there is none" is said to be absent."""
    *context, target = (_labels(image) for image in (*request.contexts, request.target))
    facts = {
        "kind": request.relation_class,
        "relation": request.relation,
        "labels of the change": _said(request.values() or {}),
        "context": context,
        "target": target,
    }
    return json.dumps(facts, sort_keys=True, ensure_ascii=False)


def _labels(image: ImageFacts) -> dict[str, str]:
    return {"shows": image.concept, **_said(dict(image.attributes))}


def _said(labels: dict[str, str]) -> dict[str, str]:
    """`text` is verbatim: NO on a sign is a word."""
    verbatim = labels.get("attribute") == "text"
    return {
        name: value if verbatim or name == "text" or not is_nothing(value) else "(absent)"
        for name, value in labels.items()
    }
