"""What a captioner is asked and what it answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

MAX_WORDS = 14  # small text encoders see 20 word pieces; longer texts would lose their end

Status = Literal["ok", "refused", "malformed", "empty"]


@dataclass(frozen=True)
class ImageFacts:
    """What is known about an image, in words; `png` only where a captioner looks at pixels."""

    concept: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    png: bytes | None = None


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
    remote: bool  # asks a model: with pictures, several at once, and stored chunk by chunk

    def caption(self, request: CaptionRequest) -> Caption:
        """The text of one pair; a failure is a status, not an exception.

        Raises:
            KontextError: the captioner itself is out of order (so that the stage can be retried).
        """
