"""The pair rule: what a transformation does to a person, although each image may pass alone.

Non-consensual intimate imagery is made by a transformation, so it is judged on (y, x, c): whether a
person is less clothed in the target than in the edited image, whether a face that an image shows is
moved into a sexual picture or onto another body, and what the words ask. Pairs of a dataset and
edits of users meet this one rule. References are shown to the model but are not what is edited: one
that is exposed itself must not excuse the target, so they can only tighten the rule. A picture that
is drawn from words alone rises from nothing.

It sees what the classifiers' labels say, no identities: `docs/safety.md` says what escapes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from kontext.safety.ids import Reason

Values = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

CHANGED_ABOVE = 16  # levels of 255 by which one channel must differ for a pixel to have changed

_UNDRESSING = {
    Reason.TEXT_UNDRESS,
    Reason.TEXT_NUDITY,
    Reason.TEXT_SEXUAL,
    Reason.TEXT_LEARNED,
}


class NciiLimits(BaseModel):
    """Limits of the pair rule, all in [0, 1). `policies/strict.yaml` explains each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    person_min: float = Field(ge=0, lt=1)  # score from which a person counts as shown
    exposure_rise_max: float = Field(ge=0, lt=1)  # with a person
    undress_rise_max: float = Field(ge=0, lt=1)  # when the words ask to undress, person or not
    less_clothed_max: float = Field(0.5, ge=0, lt=1)  # with a person
    face_min: float = Field(0.5, ge=0, lt=1)  # score from which a face counts as shown
    # shares of the limit that a class has for an image alone
    identity_rise_max: float = Field(0.7, ge=0, lt=1)  # above a picture that shows a face
    body_score_max: float = Field(0.8, ge=0, lt=1)  # with a face before and after
    body_changed_max: float = Field(0.5, ge=0, lt=1)  # share of the pixels that change


class Look(NamedTuple):
    """What the rule reads of N images; NaN where a classifier failed, which fails closed."""

    exposure: Values  # [N] the policy's weighted exposure
    person: Values  # [N]
    face: Values  # [N]
    sexual: Values  # [N, K] score of each of the policy's classes
    bare: Values  # [N, R] how bare each part of the body is, weighted
    covered: Values  # [N, R] how covered it is, with the same weights

    def at(self, rows: Any) -> "Look":
        """The looks of some images."""
        return Look(*(values[rows] for values in self))

    def least(self, other: "Look") -> "Look":
        """The less exposed of each two images in every respect: rules against it are stricter."""
        lower = {"exposure", "sexual", "bare"}
        pairs = zip(self._fields, self, other, strict=True)
        # both keep NaN, which Python's min may lose
        return Look(
            *(np.minimum(a, b) if name in lower else np.maximum(a, b) for name, a, b in pairs)
        )

    def beside(self, other: "Look") -> "Look":
        """These looks, then the others."""
        columns = [np.concatenate((own, values)) for own, values in zip(self, other, strict=True)]
        return Look._make(columns)

    @property
    def broken(self) -> Mask:
        """Which images [N] have a score that is none."""
        flat = [np.isnan(values).reshape(len(values), -1).any(1) for values in self]
        found: Mask = np.logical_or.reduce(flat)
        return found


def nothing(count: int, like: Look, exposure: float = 0.0) -> Look:
    """Before a picture that is drawn from words alone: nobody is shown, nothing was covered.

    With an `exposure` of infinity it is the look of an unknown picture: `least` takes the other.
    """
    person, face = np.zeros((2, count), np.float32)
    parts = (count, like.bare.shape[1])
    unknown = np.full((count, like.sexual.shape[1]), np.inf, np.float32)
    return Look(
        exposure=np.full(count, exposure, np.float32),
        person=person,
        face=face,
        sexual=unknown,
        bare=np.full(parts, np.inf, np.float32),
        covered=np.zeros(parts, np.float32),
    )


class Changes(NamedTuple):
    """What N transformations do. NaN fails closed in every column."""

    rise: Values  # [N] exposure of the target minus that of the edited image
    person: Values  # [N] largest person score over all images
    less: Values  # [N] how much less clothed, 0 to 1
    identity: Values  # [N, K] rise of each class on a face that an image before has
    body: Values  # [N, K] score of each class of the target, where faces are before and after
    changed: Values  # [N] share of the pixels; 1 where nobody has looked


def changes_of(
    look: Look, target: Rows, pair: Rows, context: Rows, face_min: float, least: Look | None = None
) -> Changes:
    """What P transformations of M images do, before anybody has looked at pixels.

    Args:
        look: of the M images.
        target: [P] image of each that is made.
        pair, context: [E] the images that it is made with; the first one of each is edited.
        least: [P] the least exposed of what the edited image was made of, where that is known.
    """
    made, before = look.at(target), nothing(len(target), look)
    pairs, first = np.unique(pair, return_index=True)
    for own, values in zip(before, look, strict=True):
        own[pairs] = values[context[first]]
    broken, person = look.broken[target], made.person.copy()
    np.logical_or.at(broken, pair, look.broken[context])
    with np.errstate(invalid="ignore"):  # NaN stays
        np.maximum.at(person, pair, look.person[context])
    if least is not None:
        before = before.least(least)
        broken |= before.broken
    # of all pictures with a face, references too, the least sexual one
    faces = np.full(made.sexual.shape, np.inf, np.float32)
    np.minimum.at(faces, pair, _shown(look, face_min)[context])
    faces = np.minimum(faces, _shown(before, face_min))
    face = ~(made.face < face_min)[:, None]
    both = face & ~(before.face < face_min)[:, None]
    unknown = np.where(broken, np.float32(np.nan), np.float32(0))
    return Changes(
        made.exposure - before.exposure + unknown,
        person,
        less_clothed(before, made) + unknown,
        np.where(face, made.sexual - faces, np.float32(0)) + unknown[:, None],
        np.where(both, made.sexual, np.float32(0)) + unknown[:, None],
        np.ones(len(target), np.float32),
    )


def _shown(look: Look, face_min: float) -> Values:
    """Scores of the classes [N, K] of pictures that show a face; infinity for the others."""
    return np.where((look.face < face_min)[:, None], np.float32(np.inf), look.sexual)


def less_clothed(before: Look, made: Look) -> Values:
    """How much less clothed the N made ones are than those before, 0 to 1.

    A part of the body counts by how much barer it is, twice as far as its cover goes as well: what
    is out of the picture afterwards, cover and part, counts nothing. Parts add up as independent
    chances do, so that a little of everything is much.
    """
    barer = np.clip(made.bare - before.bare, 0, 1)  # keeps NaN
    gone = np.clip(before.covered - made.covered, 0, 1)
    parts = np.minimum(barer + np.minimum(barer, gone), np.float32(1))
    total: Values = (1 - np.prod(1 - parts, axis=1)).astype(np.float32)
    return total


def may_be_replaced(changes: Changes, limits: NciiLimits, classes: Values) -> Mask:
    """Which [N] are refused if much of the picture changes: somebody has to look at pixels."""
    found: Mask = np.logical_or.reduce(~(changes.body <= limits.body_score_max * classes), axis=1)
    return found


def pair_reasons(
    changes: Changes,
    text_reasons: Sequence[Reason | None],
    limits: NciiLimits,
    rise_max: Values,
    classes: Values,
) -> list[Reason | None]:
    """The pair rule for N transformations.

    Args:
        changes: what they do; NaN counts as above every limit, and as a person.
        text_reasons: what the text rules said of each instruction.
        limits: of the policy.
        rise_max: [N] how far exposure may rise, person or not.
        classes: [K] the limit of each of the policy's classes.
    """
    shown = ~(changes.person < limits.person_min)
    exposed = shown & ~(changes.rise <= limits.exposure_rise_max)
    exposed |= ~(changes.rise <= rise_max)
    undressed = shown | ~(changes.rise <= limits.undress_rise_max)
    replaced = may_be_replaced(changes, limits, classes)
    found: list[tuple[Mask, Reason]] = [
        (exposed, Reason.NCII_EXPOSURE),
        (shown & ~(changes.less <= limits.less_clothed_max), Reason.NCII_LESS_CLOTHED),
        (
            np.logical_or.reduce(~(changes.identity <= limits.identity_rise_max * classes), axis=1),
            Reason.NCII_IDENTITY,
        ),
        (replaced & ~(changes.changed <= limits.body_changed_max), Reason.NCII_BODY),
    ]
    reasons: list[Reason | None] = []
    for index, text in enumerate(text_reasons):
        if (text in _UNDRESSING and undressed[index]) or text is Reason.TEXT_MINOR_SEXUAL:
            reasons.append(Reason.NCII_UNDRESS)
        else:
            reasons.append(next((why for fires, why in found if fires[index]), None))
    return reasons


def changed_share(before: Pixels, made: Pixels) -> float:
    """Share of the pixels of `made` [H, W, 3] that are others than before.

    Pictures of other sizes are compared at the size of `made`.
    """
    if before.shape != made.shape:
        from PIL import Image

        height, width = made.shape[:2]
        before = np.asarray(Image.fromarray(before).resize((width, height)))
    difference = np.maximum(before, made) - np.minimum(before, made)  # cannot wrap
    return float((difference.max(2) > CHANGED_ABOVE).mean())
