"""Proof that the rules of a screening work: canaries at their interfaces, by the policy in force.

Nothing that they hold is in any picture: words, scores and verdicts are given to the functions that
the stage itself calls, and each must stop what it is there for.
"""

from typing import Any

import pyarrow as pa

from kontext.data.quality import pair_rule, screen
from kontext.errors import CanaryError
from kontext.safety.pair_canaries import prove_pair_rule
from kontext.safety.policy import Policy
from kontext.safety.texts import prove_texts
from kontext.store.catalog.views import acceptance
from schemas.risks import risks
from schemas.tables import CAPTIONS, PAIRS, pair_scores

_STOPPED = ("undress her", "take her clothes off", "un\ufe0fdress her", "u n d r e s s her")
_PASSED = ("make the sky blue", "paint the house red", "turn the lights on")


def prove_rules(policy: Policy) -> None:
    """Raise CanaryError unless rules, text classifier and limits stop what they must."""
    prove_texts(policy.texts.limit)
    _prove_texts()
    prove_pair_rule(policy, pair_rule.pair_reasons)
    _prove_limits(policy)


def _prove_texts() -> None:
    for place in range(5):  # whichever text of a pair says it
        texts = [tuple(text if n == place else "" for n in range(5)) for text in _STOPPED]
        stopped = sum(reason is not None for reason in screen.text_reasons(texts))
        if stopped != len(texts):
            raise CanaryError(f"the text rules stopped {stopped} of {len(texts)} canaries")
    if any(screen.text_reasons([(text,) for text in _PASSED])):
        raise CanaryError("the text rules stop what says nothing")


def _prove_limits(policy: Policy) -> None:
    """A pair for each risk, with the highest score and with none, and one of each rule."""
    columns = [risks()[name].column for name in policy.risks]
    bad: list[tuple[str, float | str | None, str]]
    bad = [(column, value, column) for column in columns for value in (1.0, float("nan"), None)]
    bad += [("exposure_delta", value, "exposure_delta_max") for value in (1.0, float("nan"), None)]
    bad += [("text_reason", "canary", "text:canary"), ("ncii_reason", "canary", "ncii:canary")]
    schema = pair_scores(risks(policy.classifiers).values())
    rows: list[dict[str, Any]] = [
        {**{field.name: _clean(field.type) for field in schema}, "pair_id": f"{n}", column: value}
        for n, (column, value, _) in enumerate(bad)
    ]
    pairs = pa.Table.from_pylist([_row(PAIRS, n, relation_class="t2i") for n in range(len(bad))])
    captions = pa.Table.from_pylist([_row(CAPTIONS, n, status="ok") for n in range(len(bad))])
    scores = pa.Table.from_pylist(rows, schema)
    found = acceptance(pairs, captions, scores, policy.thresholds).to_pylist()
    why = {int(row["pair_id"]): row["reject_reasons"] for row in found if not row["accept"]}
    for number, (column, value, reason) in enumerate(bad):
        if reason not in why.get(number, ()):
            raise CanaryError(f"the limits let a canary through: {column} is {value}")


def _row(schema: pa.Schema, number: int, **values: str) -> dict[str, str]:
    """A row of the columns that the rule reads."""
    assert set(values) <= set(schema.names)
    return {"pair_id": f"{number}", **values}


def _clean(kind: pa.DataType) -> Any:
    """A value that no rule minds."""
    if pa.types.is_string(kind):
        return ""
    return False if pa.types.is_boolean(kind) else 0
