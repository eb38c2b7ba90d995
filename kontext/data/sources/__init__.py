"""Image sources: each plans its items deterministically.

To add a source, write one file here: a settings class (`SourceConfig` with its own `kind`), `plan`
and `ATTRIBUTION`. One that brings pairs, or leaves files out, also has `read`, which gives all of a
`Planned`. It must import heavy packages inside its functions, because every recipe imports it. May
import kontext.errors, kontext.data.layouts and schemas.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TypeVar

from kontext.data.sources.base import GivenPair, Planned, Skipped, SourceItem, stamp_of
from kontext.data.sources.stable import choose
from schemas.sections.data import IngestConfig
from schemas.sections.sources import SourceConfig

EDITED = "kontext.data.edited"  # makes programmatic edits

T = TypeVar("T", SourceItem, GivenPair, Skipped)


def plan(config: SourceConfig) -> list[SourceItem]:
    """All items of the source `config` describes, in a stable order.

    Raises:
        SourceError: the source's files are missing or unreadable.
    """
    return read(config).items


def read(config: SourceConfig) -> Planned:
    """All that the source holds. Raises SourceError as `plan` does."""
    module = import_module(type(config).__module__)
    found: Planned = (
        module.read(config) if hasattr(module, "read") else Planned(module.plan(config))
    )
    if config.canvases:
        found.items = [
            replace(item, canvas=choose(config.canvases, "canvas", item.group_key))
            for item in found.items
        ]
    return found


def read_all(configs: Sequence[SourceConfig]) -> Planned:
    """All that several sources hold, in their order.

    Sources of one name (two folders `photos`) get numbers after it, so that they share no groups.
    """
    every, taken = Planned(), set[str]()
    for config in configs:
        found = read(config)
        names = {item.source for item in found.items} | {skip.source for skip in found.skipped}
        for name in sorted(names & taken):
            number = next(n for n in range(2, len(taken) + 3) if f"{name} ({n})" not in taken)
            found = _renamed(found, name, f"{name} ({number})")
            names = names - {name} | {f"{name} ({number})"}
        taken |= names
        every.items += _stamped(found.items)
        every.pairs += found.pairs
        every.skipped += found.skipped
    return every


def _stamped(items: list[SourceItem]) -> list[SourceItem]:
    """The items with the stamps of their files as they are now."""
    stamps = {file: stamp_of(file) for file in {item.file for item in items} if file is not None}
    return [replace(item, stamp=stamps[item.file]) if item.file else item for item in items]


def _renamed(found: Planned, old: str, new: str) -> Planned:
    def named(one: T) -> T:
        return replace(one, source=new) if one.source == old else one

    items = [
        replace(
            item,
            group_key=new + item.group_key.removeprefix(old),
            series=new + item.series.removeprefix(old) if item.series else "",
        )
        if item.source == old and item.group_key.startswith(f"{old}:")
        else item
        for item in found.items
    ]
    return Planned(
        [named(one) for one in items],
        [named(one) for one in found.pairs],
        [named(one) for one in found.skipped],
    )


def modules_named(config: IngestConfig) -> list[str]:
    """Modules of the plug-ins that the section names, and of those that these choose from."""
    found: list[str] = []
    for source in config.sources:
        module = import_module(type(source).__module__)
        found.append(module.__name__)
        found += module.modules(source) if hasattr(module, "modules") else []
    if config.edits.per_picture:  # by name: they count only where they are asked for
        found += import_module(EDITED).modules_named(config)
    return found
