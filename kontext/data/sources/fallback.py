"""Which sources an ingest really reads: without npm's images, those that pip ships stand in.

The choice is made from what is on disk, so it belongs to the stage's identity (`external`), to its
artifact (`sources.json`) and to what people are told (its notes).
"""

from __future__ import annotations

from typing import NamedTuple

from kontext.data.sources.emoji import EmojiSource
from kontext.data.sources.iconify import available
from kontext.data.sources.meteocons import MeteoconsSource
from kontext.data.sources.openmoji_wheel import OpenMojiWheelSource
from schemas.sections.data import IngestConfig
from schemas.sections.sources import Source

# One set has fewer drawings of a concept than eight, so it gives more concepts.
_MORE_CONCEPTS, _MORE_PEOPLE = 4, 2


class Resolved(NamedTuple):
    """The sources to read, and one line for people about each that is stood in for."""

    sources: tuple[Source, ...]
    notes: tuple[str, ...]


def resolve(config: IngestConfig) -> Resolved:
    """`config.sources`, with those that need npm replaced where npm's images are not installed.

    Emoji sets become OpenMoji from its wheel; meteocons have no stand-in. Images that npm installed
    in part are not replaced: the source itself then says which set is missing.
    """
    if not config.npm_fallback or available():
        return Resolved(config.sources, ())
    sources: list[Source] = []
    notes: list[str] = []
    for source in config.sources:
        if isinstance(source, EmojiSource):
            sources.append(
                OpenMojiWheelSource(
                    max_concepts=_MORE_CONCEPTS * source.max_concepts,
                    max_people=_MORE_PEOPLE * source.max_people,
                    families=source.families,
                    seed=source.seed,
                )
            )
            notes.append(
                f"npm's images are not installed: the emoji of {len(source.sets)} icon sets are "
                "replaced by OpenMoji from pip, in the three styles its layers give; styles of "
                "other sets cannot be mined"
            )
        elif isinstance(source, MeteoconsSource):
            notes.append(
                "npm's images are not installed: no weather icons, so day-to-night and weather "
                "changes of icons cannot be mined; DiceBear landscapes and backgrounds still "
                "serve 'global'"
            )
        else:
            sources.append(source)
    return Resolved(tuple(sources), tuple(notes))
