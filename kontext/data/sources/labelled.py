"""Instructions in file names: the label `edit`, `instruction` or `prompt` says what was done.

    0001.png                                    before
    0001__edit=Put a hat on the dog.png         after, with its instruction

A picture is edited from the one of its folder, name and other labels that has no such label.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from kontext.data.sources.base import GivenPair, Planned, Skipped, SourceItem

INSTRUCTIONS = frozenset({"edit", "instruction", "prompt"})

Key = tuple[str, frozenset[tuple[str, str]]]  # folder and name, other labels


def with_instructions(
    items: Sequence[SourceItem], names: Mapping[str, str], skipped: Sequence[Skipped] = ()
) -> Planned:
    """The items of a folder, with a pair for each whose labels have an instruction.

    An edited picture keeps no label, because it shows more than they say. One whose picture before
    is not told by its name is skipped: before_missing, before_ambiguous, or instruction_ambiguous
    where several labels say what was done. Instructions are kept byte for byte.

    Args:
        names: by an item's ref, its file's name without suffix and labels.
    """
    before: dict[Key, list[SourceItem]] = defaultdict(list)
    for item in items:
        if not _instructions(item):
            before[_key(item, names)].append(item)
    found = Planned(skipped=list(skipped))
    for item in items:
        said = _instructions(item)
        rest = {name: v for name, v in item.attributes.items() if name.lower() not in INSTRUCTIONS}
        if not said:
            found.items.append(replace(item, attributes=rest))
            continue
        first = before.get(_key(item, names), [])
        if len(said) > 1 or len(first) != 1:
            found.skipped.append(_refused(item, said, first, names[item.ref]))
            continue
        found.items.append(replace(item, attributes={}))
        found.pairs.append(GivenPair(item.source, item.ref, item.ref, (first[0].ref,), said[0]))
    return found


def _instructions(item: SourceItem) -> list[str]:
    """What labels say was done; an empty one says that nothing was."""
    labels = item.attributes.items()
    return [text for name, text in labels if name.lower() in INSTRUCTIONS and text.strip()]


def _key(item: SourceItem, names: Mapping[str, str]) -> Key:
    rest = {(name, v) for name, v in item.attributes.items() if name.lower() not in INSTRUCTIONS}
    return f"{PurePosixPath(item.ref).parent}/{names[item.ref]}", frozenset(rest)


def _refused(
    item: SourceItem, said: Sequence[str], first: Sequence[SourceItem], name: str
) -> Skipped:
    if len(said) > 1:
        return Skipped(item.source, item.ref, "instruction_ambiguous", "two labels say what to do")
    if not first:
        why = f"its name has an instruction, but no picture {name} without one is beside it"
        return Skipped(item.source, item.ref, "before_missing", why)
    why = f"{first[0].ref} and {first[1].ref} may be the picture before"
    return Skipped(item.source, item.ref, "before_ambiguous", why)
