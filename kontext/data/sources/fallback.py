"""Which sources an ingest really reads: without npm's images, those that pip ships stand in.

The choice is made from what is on disk, so it belongs to the stage's identity (`external`), to its
artifact (`sources.json`) and to its notes.
"""

from importlib import import_module

from kontext.data.sources.iconify import available
from schemas.sections.data import IngestConfig
from schemas.sections.sources import Source


def resolve(config: IngestConfig) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """The sources to read, and a line for people about each that was replaced or left out.

    `config.sources`, with those that need npm replaced where npm's images are not installed. Such a
    source says by `without_npm` what replaces it, if anything. Images that npm installed in part
    are not replaced: the source itself then says which set is missing.
    """
    if not config.npm_fallback or available():
        return config.sources, ()
    sources: list[Source] = []
    notes: list[str] = []
    for source in config.sources:
        module = import_module(type(source).__module__)
        stand_in = source
        if hasattr(module, "without_npm"):
            stand_in, note = module.without_npm(source)
            notes.append(note)
        if stand_in is not None:
            sources.append(stand_in)
    return tuple(sources), tuple(notes)
