"""What a captioner is asked and what it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from kontext.data.chat.prompts import Status
from schemas.sections.data import CaptionConfig

if TYPE_CHECKING:  # a recipe looks for captioners, and needs no more than pydantic
    import pyarrow as pa

# what the templates are written for; a longer text than the text encoder reads would lose its end
MAX_WORDS: int = CaptionConfig.model_fields["max_words"].default


@dataclass(frozen=True)
class ImageFacts:
    """What is known about an image, in words; `pixel_id` for a captioner that looks at it."""

    concept: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    pixel_id: str = ""


@dataclass(frozen=True)
class CaptionRequest:
    """One pair to caption. `params` is the miner's JSON text, checked here and nowhere before.

    `given` is the instruction that the pair brings with it, None where it has yet to be written.
    """

    pair_id: str
    relation_class: str
    relation: str
    params: str
    target: ImageFacts
    contexts: tuple[ImageFacts, ...] = ()
    given: str | None = None
    given_caption: str = ""
    given_inverse: str = ""

    def values(self) -> dict[str, str] | None:
        """The parameters as strings, or None where they are not a JSON object of scalars."""
        try:
            params = json.loads(self.params)
        except json.JSONDecodeError:
            return None
        if not isinstance(params, dict):
            return None
        if not all(isinstance(v, str | int | float) for v in params.values()):
            return None
        return {key: " ".join(str(value).split()) for key, value in params.items()}


@dataclass(frozen=True)
class Caption:
    """The text of one pair: a row of `captions`."""

    pair_id: str
    instruction: str
    instruction_short: str
    instruction_inverse: str
    target_caption: str
    context_caption: str
    template: str
    status: Status
    captioner: str


def failed(request: CaptionRequest, status: Status, captioner: str) -> Caption:
    """A row that says why there is no text. Kept, never accepted."""
    return Caption(request.pair_id, "", "", "", "", "", request.relation, status, captioner)


class Captioner(Protocol):
    """Anything that can caption a pair."""

    id: str  # name and version, stored with every row

    def caption(self, request: CaptionRequest) -> Caption:
        """The text of one pair; a failure is a status, not an exception."""


@dataclass
class Desk:
    """What those who ask a model work with: the pictures, and the run they are part of."""

    picture: Callable[[str], bytes]  # pixel id -> PNG
    home: Path  # where replies are kept
    progress: Callable[[float, float, str], None] = lambda done, total, what: None
    stop: Callable[[], bool] = lambda: False  # whether the time is up
    continued: Callable[[str], None] = lambda what: None  # told what earlier work is gone on with
    asked: list[str] = field(default_factory=list)  # digests so far: they share one budget


@dataclass(frozen=True)
class Captioned:
    """Captions in the order asked for, and all that a model was asked for them: REPLIES."""

    captions: list[Caption]
    replies: pa.Table


@dataclass(frozen=True)
class Judged:
    """Scores of captioned edits, JUDGEMENTS, and all that a model was asked for them: REPLIES."""

    judgements: pa.Table
    replies: pa.Table


class Judge(Protocol):
    """Anything that can say how well instruction and pictures fit."""

    def judge_all(
        self, requests: Sequence[CaptionRequest], captions: Sequence[Caption], desk: Desk
    ) -> Judged:
        """Scores of all edits that have a caption; what cannot be scored has a status.

        Raises like `RemoteCaptioner.caption_all`.
        """


@runtime_checkable
class RemoteCaptioner(Protocol):
    """A captioner that asks a model, with pictures and several at once."""

    id: str

    def caption_all(self, requests: Sequence[CaptionRequest], desk: Desk) -> Captioned:
        """The text of all pairs. What ends early goes on in the next run, and pays nothing twice.

        Raises:
            KontextError: the model cannot be asked at all, so that the stage can be retried.
            Stopped: the time is up.
        """
