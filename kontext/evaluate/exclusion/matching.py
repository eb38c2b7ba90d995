"""Which edits ask for an excluded concept."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kontext.data.caption.words import humanise, is_nothing
from kontext.data.shards.read import PairRow
from kontext.errors import RecipeError

if TYPE_CHECKING:
    from schemas.sections.exclusion import Concept


def asks_for(concept: Concept, row: PairRow) -> bool:
    """Whether an edit is of the concept: by its relation and label, or by its words."""
    if not row.contexts:
        return False
    of_relation = concept.relation == row.relation != ""
    by_label = of_relation and (not concept.values or row.params.get("to") in concept.values)
    worded = concept.pattern and re.search(concept.pattern, row.instruction, re.IGNORECASE)
    return by_label or bool(worded) or row.instruction in concept.phrases


def shows(concept: Concept, row: PairRow) -> bool:
    """Whether a pair without a context is a drawing of the concept, by its label or its words."""
    if row.contexts:
        return False
    label = row.params.get(f"label.{concept.relation}")
    words = (*words_for(concept), *filter(None, (concept.pattern,)))
    named = (re.search(rf"\b(?:{word})\b", row.instruction, re.IGNORECASE) for word in words)
    return label in concept.values or any(named)


def words_for(concept: Concept) -> tuple[str, ...]:
    """Words that name the concept; none where only whole instructions do."""
    return concept.words or tuple(humanise(v) for v in concept.values if not is_nothing(v))


def check(concept: Concept, rows: Iterable[PairRow]) -> None:
    """Refuse what the training split does not have.

    Raises:
        RecipeError: no edit is of the relation, or to a label, or matches the pattern.
    """
    edits = [row for row in rows if row.contexts]
    said, relations = f"exclude: concept '{concept.name}'", {row.relation for row in edits}
    if concept.relation and concept.relation not in relations:
        there = ", ".join(sorted(relations)) or "none"
        raise RecipeError(
            f"{said}: no training edit is of relation '{concept.relation}'; there are {there}"
        )
    labels = {str(row.params.get("to")) for row in edits if row.relation == concept.relation}
    if unknown := sorted(set(concept.values) - labels):
        there = ", ".join(sorted(labels))
        raise RecipeError(
            f"{said}: no '{concept.relation}' is edited to '{unknown[0]}'; there are {there}"
        )
    if concept.pattern and not any(
        re.search(concept.pattern, row.instruction, re.IGNORECASE) for row in edits
    ):
        raise RecipeError(f"{said}: no training instruction matches '{concept.pattern}'")
