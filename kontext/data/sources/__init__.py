"""Image sources: each plans its items deterministically. A new source is one file and one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kontext.data.sources import cutouts, dicebear, emoji, folder, meteocons, openmoji_wheel, signs
from kontext.data.sources.base import SourceItem
from schemas.data_config import Section

_PLANNERS: dict[str, Callable[[Any], list[SourceItem]]] = {
    "emoji": emoji.plan,
    "meteocons": meteocons.plan,
    "dicebear": dicebear.plan,
    "signs": signs.plan,
    "openmoji-wheel": openmoji_wheel.plan,
    "folder": folder.plan,
    "cutouts": cutouts.plan,
}


def plan(config: Section) -> list[SourceItem]:
    """All items of the source `config` describes, in a stable order.

    Raises:
        SourceError: the source's files are missing or unreadable.
    """
    return _PLANNERS[config.kind](config)  # type: ignore[attr-defined]


__all__ = ["SourceItem", "plan"]
