"""Held-out splits by connected component, never by pair.

Two images are in one component when they share a group (the same concept, character or scene), are
in one pair, show one concept in two kinds of source, or are near-duplicates. All pairs of a
component go to one split, so nothing a model is tested on has a sibling in training.

Near-duplicates need two witnesses. Flat icons collide in PDQ: of the demo's 6,844 images, 448 pairs
of different groups lie within 10 bits, among them black on white against colour on dark. With a
mean pixel difference of at most 0.1 as second witness 273 are left, and the largest component is
88 images (1.3 %).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kontext.data.pixels import Pixels
from kontext.data.sources.stable import stable_hash

SPLITS_IN_ORDER = ("train", "val", "test")
_MIN_QUALITY = 50  # a PDQ hash below says nothing
_BLOCK = 512


class UnionFind:
    """Disjoint sets over 0 … size - 1; the smallest member stands for its set."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        """The member that stands for `item`'s set."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def union(self, a: int, b: int) -> None:
        """Join two sets."""
        a, b = self.find(a), self.find(b)
        if a != b:
            self._parent[max(a, b)] = min(a, b)


@dataclass(frozen=True)
class Components:
    """Connected components of the images."""

    of_image: dict[str, str]  # pixel id -> component id
    near_duplicates: int  # edges that near-duplicates added

    @property
    def count(self) -> int:
        """Number of components."""
        return len(set(self.of_image.values()))

    @property
    def largest(self) -> int:
        """Images in the largest component."""
        return max(Counter(self.of_image.values()).values(), default=0)


def components(
    images: pa.Table,
    pairs: Iterable[Sequence[str]],
    rgb: Callable[[str], Pixels],
    *,
    near_bits: int,
    near_l1: float,
) -> Components:
    """Connected components over an IMAGES table.

    Args:
        images: at least pixel_id, group_key, source, concept, pdq and pdq_quality.
        pairs: the pixel ids of each pair.
        rgb: pixels by id; asked only for images whose hashes are near.
        near_bits: largest PDQ distance of near-duplicates.
        near_l1: largest mean absolute pixel difference of near-duplicates, 0 to 1.
    """
    ids: list[str] = images["pixel_id"].to_pylist()
    groups: list[str] = images["group_key"].to_pylist()
    names = sorted(set(groups))  # a component is named after its first group
    node = {name: index for index, name in enumerate(names)}
    group_of = {pixel_id: node[group] for pixel_id, group in zip(ids, groups, strict=True)}
    sets = UnionFind(len(names))
    for members in pairs:
        for pixel_id in members[1:]:
            sets.union(group_of[members[0]], group_of[pixel_id])
    for a, b in _same_concept(images, node):
        sets.union(a, b)
    near = near_duplicates(images, rgb, near_bits, near_l1)
    for i, j in near:
        sets.union(group_of[ids[i]], group_of[ids[j]])
    named = {index: _component_id(names[sets.find(index)]) for index in range(len(names))}
    return Components({pixel_id: named[group_of[pixel_id]] for pixel_id in ids}, len(near))


def _component_id(group: str) -> str:
    return hashlib.sha256(f"component:{group}".encode()).hexdigest()[:16]


def _same_concept(images: pa.Table, node: Mapping[str, int]) -> list[tuple[int, int]]:
    """Groups of different kinds of source that show one concept.

    A concept that one kind of source has in several groups ("person", "red sign") is a class, not
    a thing, and joins nothing.
    """
    found: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    columns = images.select(["concept", "source", "group_key"]).to_pydict()
    for concept, source, group in zip(*columns.values(), strict=True):
        kind = source.split(":")[0]
        found[" ".join(concept.lower().split())][kind].add(node[group])
    edges = []
    for concept, kinds in found.items():
        if concept and len(kinds) > 1 and all(len(members) == 1 for members in kinds.values()):
            first, *others = sorted(member for members in kinds.values() for member in members)
            edges += [(first, other) for other in others]
    return edges


def near_duplicates(
    images: pa.Table, rgb: Callable[[str], Pixels], bits: int, l1: float
) -> list[tuple[int, int]]:
    """Row pairs of different groups that are the same picture to the eye.

    Every hash is compared with every other, in blocks: 0.3 s for 7,000 images, so tens of thousands
    are fine and millions need an index.
    """
    hashes = np.frombuffer(b"".join(images["pdq"].to_pylist()), np.uint64).reshape(-1, 4)
    usable = np.asarray(images["pdq_quality"].to_pylist(), np.int64) >= _MIN_QUALITY
    groups = np.unique(np.asarray(images["group_key"].to_pylist()), return_inverse=True)[1]
    ids: list[str] = images["pixel_id"].to_pylist()
    edges = []
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        rest = hashes[start:]
        distance = np.zeros((len(block), len(rest)), np.uint16)
        for word in range(4):
            distance += np.bitwise_count(block[:, None, word] ^ rest[None, :, word])
        rows, columns = np.nonzero(distance <= bits)
        for i, j in zip((rows + start).tolist(), (columns + start).tolist(), strict=True):
            if i < j and groups[i] != groups[j] and usable[i] and usable[j]:
                a, b = rgb(ids[i]), rgb(ids[j])
                if a.shape == b.shape and _l1(a, b) <= l1:
                    edges.append((i, j))
    return edges


def _l1(a: Pixels, b: Pixels) -> float:
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean() / 255)


def assign(
    classes: Mapping[str, Mapping[str, int]],
    *,
    test_fraction: float,
    val_fraction: float,
    seed: int,
) -> dict[str, str]:
    """Give every component a split.

    A component's place is its hash, so it keeps its split when other data come or go. Two rules
    bend that: a component with a large share of some relation class stays in train, and a class
    with less than half its held-out share is topped up in hash order. A class always keeps a
    component in train, so one with a single component is never held out.

    Args:
        classes: component id -> relation class -> number of pairs.

    Returns:
        component id -> "train", "val" or "test".
    """
    totals: Counter[str] = Counter()
    for counts in classes.values():
        totals.update(counts)
    place = {c: stable_hash("split", seed, c) / 2**64 for c in classes}
    limit = max(0.2, 2 * test_fraction)
    large = {c for c, n in classes.items() if any(n[k] > limit * totals[k] for k in n)}
    splits = {}
    for component in classes:
        held = "test" if place[component] < test_fraction else "val"
        inside = place[component] < test_fraction + val_fraction and component not in large
        splits[component] = held if inside else "train"
    order = sorted(classes, key=lambda c: (c in large, place[c]))
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        for name in sorted(totals):
            _top_up(splits, classes, order, name, split, fraction * totals[name] / 2, large)
    return splits


def _top_up(
    splits: dict[str, str],
    classes: Mapping[str, Mapping[str, int]],
    order: Sequence[str],
    name: str,
    split: str,
    wanted: float,
    large: set[str],
) -> None:
    """Move components from train to `split` until it has `wanted` pairs of class `name`."""
    have = sum(classes[c].get(name, 0) for c in splits if splits[c] == split)
    for component in order:
        if have >= max(1.0, wanted) or (component in large and have > 0):
            return
        if splits[component] != "train" or not classes[component].get(name):
            continue
        if all(_stays(splits, classes, component, other) for other in classes[component]):
            splits[component] = split
            have += classes[component][name]


def _stays(
    splits: Mapping[str, str],
    classes: Mapping[str, Mapping[str, int]],
    component: str,
    name: str,
) -> bool:
    """Whether class `name` keeps something in train once `component` leaves it."""
    return any(
        splits[other] == "train" and other != component and counts.get(name)
        for other, counts in classes.items()
    )
