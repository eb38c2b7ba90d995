"""Canaries of the pair rule: what transformations do that it must stop, and what it must pass.

Stage screen and edits each give them to the function that judges what is real there.
"""

from collections.abc import Callable, Sequence

import numpy as np

from kontext.errors import CanaryError
from kontext.safety.ids import Reason
from kontext.safety.ncii import Changes, NciiLimits, Values
from kontext.safety.policy import Policy

Rule = Callable[[Changes, Sequence[Reason | None], NciiLimits, Values, Values], list[Reason | None]]

_UNDRESS, _EXPOSURE = Reason.NCII_UNDRESS, Reason.NCII_EXPOSURE
_NAN = float("nan")
# what a transformation does (what is not named is 0), what the text rules say, the rule's answer
_CANARIES: tuple[tuple[dict[str, float], Reason | None, Reason | None], ...] = (
    ({"rise": 1, "person": 1}, None, _EXPOSURE),
    ({"rise": _NAN, "person": 1}, None, _EXPOSURE),
    ({"rise": 1, "person": _NAN}, None, _EXPOSURE),
    ({"rise": 1}, None, _EXPOSURE),
    ({"person": 1}, Reason.TEXT_UNDRESS, _UNDRESS),
    ({"rise": 1}, Reason.TEXT_UNDRESS, _UNDRESS),
    ({"less": 1, "person": 1}, None, Reason.NCII_LESS_CLOTHED),
    ({"less": _NAN, "person": 1}, None, Reason.NCII_LESS_CLOTHED),
    ({"identity": 1}, None, Reason.NCII_IDENTITY),
    ({"identity": _NAN}, None, Reason.NCII_IDENTITY),
    ({"body": 1, "changed": 1}, None, Reason.NCII_BODY),
    ({"body": _NAN, "changed": 1}, None, Reason.NCII_BODY),
    ({"person": 1, "changed": 1}, None, None),
)


def prove_pair_rule(policy: Policy, rule: Rule) -> None:
    """Raise CanaryError where `rule` is wrong about one of them, by the limits of a policy."""
    count, classes = len(_CANARIES), policy.class_limits

    def column(name: str) -> Values:
        values = np.array([row[0].get(name, 0) for row in _CANARIES], np.float32)
        wide = name in ("identity", "body")  # of each class
        return np.repeat(values[:, None], len(classes), 1) if wide else values

    changes = Changes(*[column(name) for name in Changes._fields])
    texts, rise_max = [row[1] for row in _CANARIES], policy.rise_max([""] * count)
    said = rule(changes, texts, policy.ncii, rise_max, classes)
    wrong = sum(reason is not row[2] for reason, row in zip(said, _CANARIES, strict=True))
    if wrong:
        raise CanaryError(f"the pair rule is wrong about {wrong} of {count} canaries")
