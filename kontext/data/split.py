"""Held-out splits by connected component, never by pair.

Two images are in one component when they share a group (the same concept, character or scene), are
in one pair, show one concept in two kinds of source, or are near-duplicates. All pairs of a
component go to one split, so nothing a model is tested on has a sibling in training.

Near-duplicates need two witnesses. Flat icons collide in PDQ: of the demo's 6,844 images, 448 pairs
of different groups lie within 10 bits, among them black on white against colour on dark. With a
mean pixel difference of at most 0.1 as second witness 273 are left, and the largest component is
88 images (1.3 %).
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kontext.data.pixels import Pixels
from kontext.data.sources.stable import stable_hash
from kontext.safety.pdq import MIN_QUALITY, pairs_within

SPLITS_IN_ORDER = ("train", "val", "test")


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
    edges = _same_concept(images, node)
    edges += [(group_of[one], group_of[other]) for one, *rest in pairs for other in rest]
    near = near_duplicates(images, rgb, near_bits, near_l1)
    edges += [(group_of[ids[i]], group_of[ids[j]]) for i, j in near]
    firsts = (names[first] for first in _smallest_members(len(names), edges))
    named = [hashlib.sha256(f"component:{first}".encode()).hexdigest()[:16] for first in firsts]
    return Components({pixel_id: named[group_of[pixel_id]] for pixel_id in ids}, len(near))


def _smallest_members(nodes: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """For every node 0 … nodes - 1, the smallest node that it is connected to."""
    ends = np.array(edges, np.int64).reshape(-1, 2).T
    # here, because stages that only read splits run where there is no scipy
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)  # of the place where each comes first
    smallest: list[int] = first[component].tolist()
    return smallest


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

    Sorted. Hashes of low quality say nothing, and join nothing.
    """
    usable = np.flatnonzero(np.asarray(images["pdq_quality"].to_pylist()) >= MIN_QUALITY)
    hashes = np.frombuffer(b"".join(images["pdq"].to_pylist()), np.uint8).reshape(-1, 32)
    groups: list[str] = images["group_key"].to_pylist()
    ids: list[str] = images["pixel_id"].to_pylist()
    edges = []
    for first, second in pairs_within(hashes[usable], bits):
        i, j = int(usable[first]), int(usable[second])
        if groups[i] != groups[j]:
            a, b = rgb(ids[i]), rgb(ids[j])
            if a.shape == b.shape and np.abs(a.astype(np.int16) - b).mean() / 255 <= l1:
                edges.append((i, j))
    return edges


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
    """Move components from train to `split` until it has `wanted` pairs of class `name`.

    Every class keeps a component in train.
    """
    have = sum(classes[c].get(name, 0) for c in splits if splits[c] == split)
    in_train = Counter(k for c in splits if splits[c] == "train" for k in classes[c])
    for component in order:
        if have >= max(1.0, wanted) or (component in large and have > 0):
            return
        if splits[component] != "train" or not classes[component].get(name):
            continue
        if all(in_train[other] > 1 for other in classes[component]):
            splits[component] = split
            in_train.subtract(list(classes[component]))
            have += classes[component][name]
