"""Captions by a vision-language model behind an OpenAI-compatible chat endpoint (vLLM and others).

The answer must be a JSON object of a fixed shape. Three attempts; an answer that still does not fit
is a `malformed` row and a refusal is a `refused` row. An endpoint that does not answer at all is an
error, so that the stage stops and can be retried instead of filling a dataset with blanks.
"""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import KW_ONLY, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kontext.data.caption.base import MAX_WORDS, Caption, CaptionRequest, failed
from kontext.errors import KontextError, RecipeError
from schemas.sections.data import CaptionConfig

ATTEMPTS = 3
API_KEY = "OPENAI_API_KEY"  # environment variable
_SYSTEM = (
    "You write training captions for an image editor. Given what is known about a source image and "
    f"a target image, answer with one JSON object. Every text has at most {MAX_WORDS} words. "
    "instruction: imperative, how to turn the source into the target. instruction_short: the same "
    "in the fewest words. instruction_inverse: how to turn the target back into the source. "
    "target_caption and context_caption: what each image shows on its own. Without a source image, "
    "instruction is the target caption and inverse and context caption are empty."
)


class ChatReply(BaseModel):
    """The only answer we accept."""

    model_config = ConfigDict(extra="forbid")

    instruction: str = Field(min_length=1)
    instruction_short: str = Field(min_length=1)
    instruction_inverse: str
    target_caption: str = Field(min_length=1)
    context_caption: str

    @field_validator("*")
    @classmethod
    def _short(cls, text: str) -> str:
        text = " ".join(text.split())
        if len(text.split()) > MAX_WORDS:
            raise ValueError(f"more than {MAX_WORDS} words")
        return text


@dataclass
class ChatCaptioner:
    """Captions from `POST {endpoint}/chat/completions`, sampled at temperature 0."""

    endpoint: str  # base address with the version, e.g. `http://host:8000/v1`
    model: str  # as the server knows it
    _: KW_ONLY
    api_key: str = ""  # sent as a bearer token where given
    seed: int = 0
    timeout: float = 120.0  # seconds per request
    pause: float = 1.0  # seconds before a second attempt, doubled for the third
    remote = True

    def __post_init__(self) -> None:
        self.id = f"chat/{self.model}"

    def caption(self, request: CaptionRequest) -> Caption:
        """Text for one pair. Raises KontextError when the endpoint stays unreachable."""
        if request.values() is None:
            return failed(request, "malformed", self.id)
        for attempt in range(ATTEMPTS):
            message = self._ask(request, self.seed + attempt)
            if message.get("refusal"):
                return failed(request, "refused", self.id)
            try:
                reply = ChatReply.model_validate_json(str(message.get("content") or ""))
            except ValidationError:
                continue
            if request.contexts and not (reply.instruction_inverse and reply.context_caption):
                continue
            return self._row(request, reply)
        return failed(request, "malformed", self.id)

    def _row(self, request: CaptionRequest, reply: ChatReply) -> Caption:
        edit = bool(request.contexts)
        return Caption(
            request.pair_id,
            reply.instruction,
            reply.instruction_short,
            reply.instruction_inverse if edit else "",
            reply.target_caption,
            reply.context_caption if edit else "",
            f"{request.relation}/chat",
            "ok",
            self.id,
        )

    def _ask(self, request: CaptionRequest, seed: int) -> dict[str, Any]:
        """The assistant's message. Transport faults are tried ATTEMPTS times."""
        body = json.dumps(self._body(request, seed)).encode()
        url = self.endpoint.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            call = urllib.request.Request(url, body, headers, method="POST")
            try:
                with urllib.request.urlopen(call, timeout=self.timeout) as response:
                    message = json.load(response)["choices"][0]["message"]
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}"
                if error.code < 500 and error.code not in (408, 429):
                    break
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if isinstance(message, dict):
                    return message
                problem = "the reply has no message"
        raise KontextError(f"captioner {url} does not answer: {problem}")

    def _body(self, request: CaptionRequest, seed: int) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": _facts(request)}]
        for image in (*request.contexts, request.target):
            if image.png is not None:
                url = "data:image/png;base64," + base64.b64encode(image.png).decode()
                content.append({"type": "image_url", "image_url": {"url": url}})
        return {
            "model": self.model,
            "messages": [
                {"role": "system", "content": _SYSTEM},
                {"role": "user", "content": content},
            ],
            "temperature": 0,
            "seed": seed,
            "max_tokens": 300,
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "captions",
                    "strict": True,
                    "schema": ChatReply.model_json_schema(),
                },
            },
        }


def captioner(config: CaptionConfig) -> ChatCaptioner:
    """The captioner `chat` of a recipe. Raises RecipeError without endpoint or model."""
    if not config.endpoint or not config.model:
        raise RecipeError("caption.captioner=chat needs caption.endpoint and caption.model")
    return ChatCaptioner(
        config.endpoint, config.model, api_key=os.environ.get(API_KEY, ""), seed=config.seed
    )


def _facts(request: CaptionRequest) -> str:
    *source, target = (
        {"shows": image.concept, **image.attributes}
        for image in (*request.contexts, request.target)
    )
    facts = {
        "kind": request.relation_class,
        "relation": request.relation,
        "change": request.values(),
        "source": source,
        "target": target,
    }
    return json.dumps(facts, sort_keys=True)
