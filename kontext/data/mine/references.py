"""The reference miner: an attribute pair, and a second picture that shows what it should become.

"Give them the hair of the second picture": what should change is said by a picture of another
subject with the wanted value, so the words do not name it. A reference comes from one of a few
neighbouring groups. Pairs tie the images they show into one component of the held-out split
(`kontext.data.split`); with references from anywhere all images would be one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from kontext.data.caption.words import is_nothing
from kontext.data.mine import attributes
from kontext.data.mine.candidate import Candidate, MinedImage, strictest_license
from kontext.data.mine.relations import BY_REFERENCE
from kontext.data.sources.stable import stable_hash
from schemas.data_config import MineConfig

VERSION = "1"
NEIGHBOURS = 4  # groups that lend each other references
_WORDS_ONLY = ("text",)  # a picture of the wanted words is no easier to follow than the words


def mine(images: Sequence[MinedImage], config: MineConfig) -> Iterator[Candidate]:
    """Every attribute pair whose wanted value a neighbouring group shows, with one such picture."""
    shown = {image.pixel_id: image for image in images}
    near = _neighbourhoods(images)
    showing: dict[tuple[int, str, str, str], list[MinedImage]] = defaultdict(list)
    for image in images:
        for name, value in image.attributes.items():
            showing[near[image.group_key], image.source, name, value].append(image)
    for pair in attributes.mine(images, config):
        name, wanted = str(pair.params["attribute"]), str(pair.params["to"])
        if name in _WORDS_ONLY or is_nothing(wanted):
            continue
        target = shown[pair.target_id]
        others = [
            image
            for image in showing[near[target.group_key], target.source, name, wanted]
            if image.group_key != target.group_key
        ]
        if others:
            picked = others[stable_hash("reference", pair.pair_id, config.seed) % len(others)]
            yield _with_reference(pair, picked)


def _neighbourhoods(images: Sequence[MinedImage]) -> Mapping[str, int]:
    """Group key -> number of its neighbourhood: groups with the same labels, a few at a time."""
    alike: dict[frozenset[str], set[str]] = defaultdict(set)
    for image in images:
        if image.attributes:
            alike[frozenset(image.attributes)].add(image.group_key)
    near: dict[str, int] = defaultdict(lambda: -1)
    for labels in sorted(alike, key=sorted):
        first = 1 + max(near.values(), default=-1)
        for place, group in enumerate(sorted(alike[labels])):
            near.setdefault(group, first + place // NEIGHBOURS)
    return near


def _with_reference(pair: Candidate, reference: MinedImage) -> Candidate:
    return replace(
        pair,
        context_ids=(*pair.context_ids, reference.pixel_id),
        relation=pair.relation + BY_REFERENCE,
        miner="references",
        miner_version=VERSION,
        params={**pair.params, "reference": reference.concept},
        license_spdx=strictest_license(pair.license_spdx, reference.license_spdx),
    )
