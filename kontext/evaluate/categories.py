"""The categories that edits are scored in: KontextBench's five; recolourings, removals apart.

A palette swap recolours without any model, and a plain fill takes a thing off a plain ground. So
what these two reach says little of a model, and would hide what it reaches where shapes are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kontext.data.caption.words import is_nothing
from schemas.tables import CATEGORIES

if TYPE_CHECKING:
    from kontext.data.shards.read import PairRow

# Relations that change colours alone.
RECOLOURINGS = (
    *("skin_tone", "skin_color", "hair_color", "clothing_color", "color"),
    *("background_color", "time_of_day", "season"),
)
RECOLOURING, REMOVAL = "recolouring", "removal"
SCORED_CATEGORIES = (*CATEGORIES, RECOLOURING, REMOVAL)


def scored_category(row: PairRow) -> str:
    """The category that a pair's edit is scored in, whatever it was mined in.

    A removal is an edit whose label afterwards says that nothing is there.
    """
    if row.relation in RECOLOURINGS:
        return RECOLOURING
    if row.relation != "text" and is_nothing(str(row.params.get("to", "there"))):
        return REMOVAL  # a sign that reads "NO" still has a word
    return row.relation_class
