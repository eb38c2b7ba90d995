"""How often a flow still makes the edit that it is not to make, and what else it has lost.

Success is the bench's own (`kontext.evaluate.metrics.success`), on held-out subjects whose target
shows what is excluded. Beside it stand its first condition alone, the right choice, which a picture
that is spoilt elsewhere meets too, and how often the picture comes back as it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kontext.edit.edit_model import EditModel
from kontext.edit.weights.folder import LoadedModel, ModelSettings
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.metrics.base import Scoring
from kontext.evaluate.metrics.success import (
    MAX_CHOICE_RATIO,
    kept,
    right_choice,
    succeeded,
)
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.pixels import Images, Rows, taken
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.text.encoders import TextEncoder

Flags = NDArray[np.bool_]


class Outcome(NamedTuple):
    """Of N edits, whether each succeeded, was the right choice, and left the picture as it was."""

    success: Flags
    right: Flags
    unchanged: Flags

    def rates(self) -> dict[str, float]:
        """Shares of the edits, rounded."""
        return {name: round(float(flags.mean()), 4) for name, flags in self._asdict().items()}


@dataclass(frozen=True)
class Editors:
    """Makes editors of flows that share all but their weights.

    Settings say how attacks are drawn: steps and guidance. `seed` is that of all noise.
    """

    autoencoder: Autoencoder
    text: TextEncoder
    settings: ModelSettings
    seed: int = 0

    def of(self, flow: FluxTransformer) -> TrainedModels:
        """The flow as an editor."""
        device = next(flow.parameters()).device
        loaded = LoadedModel(flow, self.autoencoder, self.settings, "")
        editor = EditModel(loaded, self.text, device)
        return TrainedModels(editor, editor, self.seed)


@dataclass(frozen=True, eq=False)
class Subjects:
    """Held-out edits, with what they are compared to."""

    bench: Bench
    codec: Images  # round trips of contexts and of targets
    codec_target: Images
    texts: tuple[str, ...] = field(default=())  # the data's own instructions

    @classmethod
    def of(cls, bench: Bench, models: TrainedModels) -> Subjects:
        """With round trips through the models' autoencoder."""
        texts = tuple(item.instruction for item in bench.items)
        trip = models.round_trip
        return cls(bench, trip(bench.context), trip(bench.target), texts)

    def some(self, rows: Sequence[int]) -> Subjects:
        """Some of the edits, in their order."""
        chosen = np.array(rows, np.int64)
        return Subjects(
            _part(self.bench, chosen),
            self.codec[chosen],
            self.codec_target[chosen],
            tuple(self.texts[row] for row in rows),
        )

    def asked(self, models: TrainedModels, texts: Sequence[str]) -> list[Outcome]:
        """What comes of asking for each edit in each of the texts: an outcome per text."""
        count = len(self.bench)
        contexts = [[image] for _ in texts for image in self.bench.context]
        ids = [item.pair_id for item in self.bench.items] * len(texts)
        words = [text for text in texts for _ in range(count)]
        made = models.edit(models.teacher, contexts, words, ids)
        return [self.judged(made[low : low + count]) for low in range(0, len(made), count)]

    def in_own_words(self, models: TrainedModels, texts: Sequence[str] = ()) -> Outcome:
        """What comes of the data's instructions, or of one text for each edit."""
        contexts = [[image] for image in self.bench.context]
        ids = [item.pair_id for item in self.bench.items]
        return self.judged(models.edit(models.teacher, contexts, texts or self.texts, ids))

    def judged(self, made: Images) -> Outcome:
        """The outcome of one picture for each edit."""
        found = [np.zeros(len(self.bench), bool) for _ in Outcome._fields]
        for rows, part in self.bench.parts:
            scoring = self._scoring(part, rows, made)
            judged = (succeeded(scoring), right_choice(scoring), _unchanged(scoring))
            for flags, own in zip(found, judged, strict=True):
                flags[rows] = own
        return Outcome(*found)

    def _scoring(self, part: Bench, rows: Rows, made: Images) -> Scoring:
        none = np.zeros((len(rows), 0), np.float32)  # success looks at pixels alone
        made, codec, codec_target = (
            taken(images, rows) for images in (made, self.codec, self.codec_target)
        )
        return Scoring(part, made, codec, codec_target, none, none, None)


def _unchanged(scoring: Scoring) -> Flags:
    """Whether each picture is its context [N]: as near to it as a right choice is to the target."""
    bench = scoring.bench
    context = _error(scoring, bench.context, scoring.codec)
    target = _error(scoring, bench.target, scoring.codec_target)
    return np.asarray((context < MAX_CHOICE_RATIO * target) & kept(scoring))


def _error(scoring: Scoring, picture: Images, trip: Images) -> NDArray[np.float64]:
    """Mean error [N] over the mask to a picture or its round trip, whichever is nearer."""
    mask, output = scoring.bench.mask[..., None], scoring.output.astype(np.float32)
    errors = [(np.abs(output - one) * mask).sum(axis=(1, 2, 3)) for one in (picture, trip)]
    return np.asarray(np.min(errors, axis=0) / mask.sum(axis=(1, 2, 3)), np.float64)


def _part(bench: Bench, rows: Rows) -> Bench:
    """A bench of some of its items."""
    return replace(
        bench,
        items=tuple(bench.items[row] for row in rows),
        context=bench.context[rows],
        target=bench.target[rows],
        mask=bench.mask[rows],
        rivals={i: bench.rivals[int(r)] for i, r in enumerate(rows) if int(r) in bench.rivals},
    )


class Tried(NamedTuple):
    """A phrasing, and how often the edit succeeded when it was used."""

    text: str
    success: float


def attack(subjects: Subjects, models: TrainedModels, texts: Sequence[str]) -> list[Tried]:
    """Each phrasing on every subject; those that succeed most often come first."""
    outcomes = subjects.asked(models, texts)
    tried = [Tried(text, float(o.success.mean())) for text, o in zip(texts, outcomes, strict=True)]
    return sorted(tried, key=lambda one: (-one.success, one.text))
