"""Proof that limits and pair rule of edits work: canaries at their interfaces, by the policy asked.

They are scores that no picture has, given to the functions that judge those of real ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from kontext.errors import CanaryError, SafetyRefusal
from kontext.safety import edit_rule
from kontext.safety.chains import UNKNOWN
from kontext.safety.edit_rule import Seen
from kontext.safety.pair_canaries import prove_pair_rule
from kontext.safety.policy import Policy

CHANGES_RESULTS = False  # proves what users' edits are asked of; no stage does

NAN = float("nan")
_BLANK = np.zeros((8, 8, 3), np.uint8)


class Judge(Protocol):
    """What judges the scores of an edit. Each raises SafetyRefusal where they may not pass."""

    def judge_scores(self, scores: Mapping[str, float], unmatchable: bool) -> None:
        """One image by its risks."""

    def judge_together(self, scores: Mapping[str, float]) -> None:
        """All images so far, by the policy's combinations."""

    def judge_result(
        self, inputs: Sequence[Seen], turns: Sequence[Seen], own: Seen, began: float
    ) -> float:
        """A result by the pair rule."""


def prove_rules(policy: Policy, judge: Callable[[], Judge]) -> None:
    """Raise CanaryError unless limits, combinations and pair rule stop what they must.

    Args:
        judge: a new one for each canary, which writes nothing down.
    """
    _prove_limits(policy, judge)
    bare, dressed = _seen(policy, 1.0, 1.0), _seen(policy, 0.0, 1.0)
    hidden, somebody = _seen(policy, NAN, 1.0), _seen(policy, 1.0, NAN)
    # inputs, results of earlier turns, result, where the chain began
    rises: dict[str, tuple[Sequence[Seen], Sequence[Seen], Seen, float]] = {
        "a rise": ([dressed], [], bare, UNKNOWN),
        "a rise beside a reference that is exposed": ([dressed, bare], [], bare, UNKNOWN),
        "a rise over several edits": ([bare], [], bare, 0.0),
        "a rise over several turns": ([dressed], [bare], bare, UNKNOWN),
        "a drawing from words alone": ([], [], bare, UNKNOWN),
        "a result without a score": ([dressed], [], hidden, UNKNOWN),
        "an input without a score": ([hidden], [], dressed, UNKNOWN),
        "a person without a score": ([dressed], [], somebody, UNKNOWN),
    }
    for name, (inputs, turns, own, began) in rises.items():
        if _passes(lambda one: one.judge_result(inputs, turns, own, began), judge):  # noqa: B023
            raise CanaryError(f"the pair rule let a canary through: {name}; no edit passes")
    if not _passes(lambda one: one.judge_result([dressed], [], dressed, UNKNOWN), judge):
        raise CanaryError("the pair rule stops what does not rise: no edit passes")
    prove_pair_rule(policy, edit_rule.pair_reasons)


def _seen(policy: Policy, exposure: float, person: float) -> Seen:
    """An image of which the classifiers would say so."""
    parts = policy.parts.values()
    scores = dict.fromkeys((label for part in parts for label in part.cover), 0.0)
    scores |= dict.fromkeys((*policy.person_labels, *policy.face_labels), person)
    scores |= dict.fromkeys((label for one in policy.risks.values() for label in one), 0.0)
    scores |= dict.fromkeys((part.bare for part in parts), exposure)
    scores |= dict.fromkeys(policy.exposure_weights, exposure)
    found = policy.risk({name: np.array([score], np.float32) for name, score in scores.items()})
    return Seen(_BLANK, found.look)


def _prove_limits(policy: Policy, judge: Callable[[], Judge]) -> None:
    clean = dict.fromkeys(policy.risks, 0.0)
    for unmatchable in (False, True):
        for name in policy.risks:
            for bad in (1.0, NAN, -1.0, float("inf")):
                scores = {**clean, name: bad}
                if _passes(lambda one: one.judge_scores(scores, unmatchable), judge):  # noqa: B023
                    raise CanaryError(f"the limits let {name} of {bad} through: no edit passes")
        if not _passes(lambda one: one.judge_scores(clean, unmatchable), judge):  # noqa: B023
            raise CanaryError("the limits stop scores of 0: no edit passes")
    for rule in policy.combinations:
        together = {**clean, **dict.fromkeys(rule.above, 1.0)}
        if _passes(lambda one: one.judge_together(together), judge):  # noqa: B023
            raise CanaryError(f"the combination {rule.name} lets all through: no edit passes")
    labels = {label for weights in policy.risks.values() for label in weights}
    for value in (1.0, NAN):
        found = policy.risk({label: np.array([value], np.float32) for label in labels})
        scores = {name: float(found.scores[name][0]) for name in policy.risks}
        if _passes(lambda one: one.judge_scores(scores, False), judge):  # noqa: B023
            raise CanaryError(f"labels of {value} make no risk: no edit passes")


def _passes(asked: Callable[[Judge], object], judge: Callable[[], Judge]) -> bool:
    try:
        asked(judge())
    except SafetyRefusal:
        return False
    return True
