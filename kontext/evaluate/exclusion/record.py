"""The record of a safety training, as people read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kontext.store.artifacts.artifact_store import Artifact

RECORD = "exclusion.json"


def lost(before: float, after: float) -> float:
    """The share of a score that is lost; below 0 where it grew, 0 where there was none."""
    return 1 - after / before if before else 0.0


def largest_cost(rows: Sequence[Mapping[str, Any]]) -> float:
    """The largest share that a category has lost; 0 where there is none."""
    return max((row["cost"] for row in rows if not row["asked"]), default=0.0)


def summary_line(result: Mapping[str, Any]) -> str:
    """What a safety training came to, in a paragraph of markdown; `result` is its record."""
    first, last = result["attacked_before"], result["attacked_after"]
    added = sum(len(one["added"]) for one in result["rounds"])
    return (
        f"Excluded: {', '.join(result['concepts'])}. {len(result['rounds'])} rounds of training, "
        f"for which attacks found {added} phrasings; {result['training_kept']:.0%} of what they "
        f"changed is kept. Of {result['tried']} phrasings that no round "
        f"has seen, {result['tried_before']} succeeded before and {result['tried_after']} do now; "
        f"with the {len(result['texts'])} strongest of them the edit succeeds for "
        f"**{last['success']:.1%}** of {result['subjects']} held-out subjects, before for "
        f"{first['success']:.1%}: a fall of **{result['fall']:.1%}**. {last['unchanged']:.0%} of "
        f"these pictures come back as they were. The category that lost most has lost "
        f"**{largest_cost(result['others']):.1%}** of its score."
    )


def exclusion_line(inputs: Mapping[str, Artifact]) -> str:
    """`summary_line` of the safety training among a stage's inputs; empty where there was none."""
    return summary_line(inputs["exclude"].json(RECORD)) if "exclude" in inputs else ""
