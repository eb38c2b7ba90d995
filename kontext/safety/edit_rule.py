"""The pair rule on a result of the editor, by the policy that pairs of a dataset are judged by."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kontext.safety.classifiers.base import Pixels
from kontext.safety.ids import Reason
from kontext.safety.ncii import (
    Look,
    changed_share,
    changes_of,
    may_be_replaced,
    nothing,
)
from kontext.safety.ncii import pair_reasons as pair_reasons  # the proof calls it from here
from kontext.safety.policy import Policy
from schemas.risks import risks

CHANGES_RESULTS = False  # judges what users edit; no stage does


class Seen(NamedTuple):
    """An image of an edit, and what the pair rule knows of it."""

    image: Pixels
    look: Look  # [1]


class Judged(NamedTuple):
    """What the rule says of a result."""

    reason: Reason | None
    rise: float  # of exposure over the whole chain; NaN where a classifier failed
    least: Look  # [1] the least exposed of the chain before this result


def judge(
    policy: Policy, inputs: Sequence[Seen], turns: Sequence[Seen], own: Seen, began: float
) -> Judged:
    """Judge a result against what was edited, and against the least exposed of its chain.

    It has no category as pairs have, so the strictest limit of any counts.

    Args:
        inputs: the edited image, then references; none for a picture from words alone.
        turns: results of the earlier turns of a session.
        began: the lowest exposure that is known of what the edited image was made of.
    """
    chain = [*inputs[:1], *turns]
    least = nothing(1, own.look, began if inputs else 0.0)
    for one in chain:
        least = least.least(one.look)
    pair, _ = _one(policy, chain[-1:], inputs[1:], own, None)
    whole, rise = _one(policy, chain[:1], inputs[1:], own, least)
    return Judged(pair or (Reason.NCII_CHAIN if whole else None), rise, least)


def _one(
    policy: Policy,
    edited: Sequence[Seen],
    references: Sequence[Seen],
    own: Seen,
    least: Look | None,
) -> tuple[Reason | None, float]:
    """What the rule says of one transformation, and how far exposure rises."""
    images = [*edited, *(references if edited else ()), own]
    look = Look(*(np.concatenate(parts) for parts in zip(*(i.look for i in images), strict=True)))
    context = np.arange(len(images) - 1)
    target, limits = np.array([len(context)]), policy.ncii
    changes = changes_of(look, target, np.zeros_like(context), context, limits.face_min, least)
    known = risks(policy.classifiers)
    columns = [policy.strictest(known[name].column) for name in policy.risks]
    classes = np.array(columns, np.float32)
    if edited and may_be_replaced(changes, limits, classes)[0]:
        changes.changed[0] = changed_share(edited[0].image, own.image)
    rise_max = np.array([policy.strictest("exposure_delta_max")], np.float32)
    (reason,) = pair_reasons(changes, [None], limits, rise_max, classes)
    return reason, float(changes.rise[0])
