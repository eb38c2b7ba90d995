"""Wording of edits whose wanted value a second picture shows: the words do not name it."""

from __future__ import annotations

import dataclasses

from kontext.data.caption.relations import Wording
from kontext.data.caption.words import escaped, humanise

_CHANGE = (
    "give it the {what} of the second picture",
    "change the {what} to that of the second picture",
    "use the {what} of the second picture",
    "copy the {what} from the second picture",
    "take over the {what} of the second picture",
    "match the {what} of the second picture",
)


def by_reference(base: Wording, attribute: str) -> Wording:
    """`base` with sentences that point at the second picture, in place of all its own."""
    what = escaped(humanise(attribute))
    lines = tuple(line.replace("{what}", what) for line in _CHANGE)
    short = f"{what} of the second picture"
    return dataclasses.replace(
        base,
        change=lines,
        short=short,
        add=lines,
        remove=lines,
        short_add=short,
        short_remove=short,
    )
