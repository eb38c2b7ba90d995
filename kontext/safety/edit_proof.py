"""Proof that limits and pair rule of edits work: canaries at their interfaces, by the policy asked.

They are scores that no picture has, given to the functions that judge those of real ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from kontext.errors import CanaryError, SafetyRefusal
from kontext.safety.policy import Policy

CHANGES_RESULTS = False  # proves what users' edits are asked of; no stage does

NAN = float("nan")


class Seen(NamedTuple):
    """What the pair rule asks of an image."""

    exposure: float
    person: float


class Judge(Protocol):
    """What judges the scores of an edit. Each raises SafetyRefusal where they may not pass."""

    def judge_scores(self, scores: Mapping[str, float], unmatchable: bool) -> None:
        """One image by its risks."""

    def judge_together(self, scores: Mapping[str, float]) -> None:
        """All images so far, by the policy's combinations."""

    def judge_rise(self, inputs: Sequence[Seen], own: Seen, before: float, least: float) -> None:
        """A result by the pair rule."""


def prove_rules(policy: Policy, judge: Callable[[], Judge]) -> None:
    """Raise CanaryError unless limits, combinations and pair rule stop what they must.

    Args:
        judge: a new one for each canary, which writes nothing down.
    """
    _prove_limits(policy, judge)
    bare, dressed, hidden = Seen(1.0, 1.0), Seen(0.0, 1.0), Seen(NAN, 1.0)
    # inputs, result, exposure before it, the least of the chain
    rises: dict[str, tuple[Sequence[Seen], Seen, float, float]] = {
        "a rise": ([dressed], bare, 0.0, 0.0),
        "a rise beside a reference that is exposed": ([dressed, bare], bare, 0.0, 0.0),
        "a rise over several edits": ([bare], bare, 1.0, 0.0),
        "a drawing from words alone": ([], bare, 0.0, 0.0),
        "a result without a score": ([dressed], hidden, 0.0, 0.0),
        "an input without a score": ([hidden], dressed, NAN, NAN),
        "a person without a score": ([Seen(0.0, NAN)], Seen(1.0, NAN), 0.0, 0.0),
    }
    for name, (inputs, own, before, least) in rises.items():
        if _passes(lambda one: one.judge_rise(inputs, own, before, least), judge):  # noqa: B023
            raise CanaryError(f"the pair rule let a canary through: {name}; no edit passes")
    if not _passes(lambda one: one.judge_rise([dressed], dressed, 0.0, 0.0), judge):
        raise CanaryError("the pair rule stops what does not rise: no edit passes")


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


def _passes(asked: Callable[[Judge], None], judge: Callable[[], Judge]) -> bool:
    try:
        asked(judge())
    except SafetyRefusal:
        return False
    return True
