"""Held-out splits by connected component, never by pair.

Two images are in one component when they share a group (the same concept, character or scene), are
in one pair, show one concept in two kinds of source, or are near-duplicates. All pairs of a
component go to one split, so nothing a model is tested on has a sibling in training.

A picture keeps its split for ever. What earlier versions of the dataset did with it is an input
here. New pictures follow those they are connected with; one that would connect pictures of two
splits is in neither, so that no held-out picture gets a sibling in training and none moves.

Near-duplicates need two witnesses. Flat icons collide in PDQ: of the demo's 6,844 images, 448 pairs
of different groups lie within 10 bits, among them black on white against colour on dark. With a
mean pixel difference of at most 0.1 as second witness 273 are left, and the largest component is
88 images (1.3 %).
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kontext.data.pixels import Pixels
from kontext.data.sources.stable import stable_hash
from kontext.safety.pdq import MIN_QUALITY, pairs_within

SPLITS_IN_ORDER = ("train", "val", "test")
NOWHERE = "nowhere"  # instead of a split, for what lies between two of them
_LEAST_TRAIN = 2 / 3  # of all pairs, unless more was asked for the other splits


@dataclass(frozen=True)
class Components:
    """Connected components of the images, each in at most one split."""

    ids: pa.Array  # pixel ids [N]
    place: NDArray[np.int64]  # of each image's component in `names` [N]; -1: between two splits
    names: list[str]  # component ids
    near_duplicates: int  # edges that near-duplicates added
    kept: dict[str, str]  # component id -> its split in earlier versions; without new components

    @property
    def of_image(self) -> dict[str, str]:
        """Pixel id -> component id; without pictures between two splits."""
        pairs = zip(self.ids.to_pylist(), self.place.tolist(), strict=True)
        return {image: self.names[place] for image, place in pairs if place >= 0}

    @property
    def images(self) -> int:
        """Number of images that are in a component."""
        return int((self.place >= 0).sum())

    @property
    def count(self) -> int:
        """Number of components."""
        return len(np.unique(self.place[self.place >= 0]))

    @property
    def largest(self) -> int:
        """Images in the largest component."""
        return int(np.bincount(self.place[self.place >= 0], minlength=1).max())


def components(
    images: pa.Table,
    ties: NDArray[np.int64],
    rgb: Callable[[str], Pixels],
    *,
    near_bits: int,
    near_l1: float,
    before: Mapping[str, str] | None = None,
) -> Components:
    """Connected components over an IMAGES table.

    Args:
        images: at least pixel_id, group_key, source, concept, pdq and pdq_quality.
        ties: rows of images that are in one pair [E, 2].
        rgb: pixels by id; asked only for images whose hashes are near.
        near_bits: largest PDQ distance of near-duplicates.
        near_l1: largest mean absolute pixel difference of near-duplicates, 0 to 1.
        before: pixel id -> split in earlier versions, or NOWHERE.
    """
    before = before or {}
    ids = images["pixel_id"].combine_chunks()
    names, node = _cells(images, before)
    near = np.array(near_duplicates(images, rgb, near_bits, near_l1), np.int64).reshape(-1, 2)
    edges = _once(_same_group_or_concept(images, names), node[ties], node[near])
    labels = _labels([split for _, split in names], edges)
    label = np.array(labels)
    ends = label[edges]
    inside = edges[(ends[:, 0] == ends[:, 1]) & (ends[:, 0] != NOWHERE)]
    first = _smallest_members(len(names), inside)
    component = _named([names[at][0] for at in first], labels)
    found, of_node = np.unique(np.array(component), return_inverse=True)
    place = np.where(label[node] == NOWHERE, -1, of_node[node])
    place[_copies(ids, near, before)] = -1
    used = set(found[place[place >= 0]].tolist())
    known = zip(component, labels, strict=True)
    kept = {c: split for c, split in known if c in used and split not in ("", NOWHERE)}
    return Components(ids, place.astype(np.int64), found.tolist(), len(near), kept)


def _cells(
    images: pa.Table, before: Mapping[str, str]
) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """The nodes (group, split), a group's pictures of one split or its new ones; images' [N]."""
    coded = images["group_key"].combine_chunks().dictionary_encode()
    groups, splits = coded.dictionary.to_pylist(), sorted(("", NOWHERE, *SPLITS_IN_ORDER))
    order = sorted(range(len(groups)), key=groups.__getitem__)
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups))
    cell = rank[coded.indices.to_numpy()] * len(splits)
    if before:
        number = {split: at for at, split in enumerate(splits)}
        cell += [number[before.get(one, "")] for one in images["pixel_id"].to_pylist()]
    cells, node = np.unique(cell, return_inverse=True)
    at, of = np.divmod(cells, len(splits))
    names = [(groups[order[g]], splits[n]) for g, n in zip(at.tolist(), of.tolist(), strict=True)]
    return names, node.astype(np.int64)


def _once(*parts: Any) -> NDArray[np.int64]:
    """Edges [E, 2] of all parts, each once and none from a node to itself."""
    edges = np.concatenate([np.asarray(part, np.int64).reshape(-1, 2) for part in parts])
    edges = edges[edges[:, 0] != edges[:, 1]]
    few, many = edges.min(axis=1, initial=2**62), edges.max(axis=1, initial=0)
    base = int(many.max(initial=0)) + 1
    found = np.unique(few * base + many)  # an edge as one number: in the same order, and small
    return np.stack(np.divmod(found, base), axis=1)


def _copies(ids: pa.Array, near: NDArray[np.int64], before: Mapping[str, str]) -> list[int]:
    """Rows of near-duplicates that earlier versions put apart: of two, the one less held out."""
    found = []
    for pair in near.tolist() if before else ():
        names = [ids[row].as_py() for row in pair]
        if _apart(before, *names):
            rank = {row: _rank(before[name]) for row, name in zip(pair, names, strict=True)}
            found.append(min(pair, key=rank.__getitem__))
    return found


def _apart(before: Mapping[str, str], one: str, other: str) -> bool:
    """Whether two pictures were in different splits."""
    known = {before.get(one), before.get(other)} - {None, NOWHERE}
    return len(known) == 2


def _rank(split: str) -> int:
    return SPLITS_IN_ORDER.index(split)


def _labels(splits: Sequence[str], edges: NDArray[np.int64]) -> list[str]:
    """The split of each node: its own, else that of the nearest node which has one, else "".

    A node as near to two splits, and of two neighbours that different splits reach at once the one
    nearer to training, is `NOWHERE`. With its own answer as `splits` it gives the same again.
    """
    label = list(splits)
    front = {node for node, split in enumerate(label) if split in SPLITS_IN_ORDER}
    neighbours: dict[int, set[int]] = defaultdict(set)
    for a, b in edges.tolist() if front else ():
        neighbours[a].add(b)
        neighbours[b].add(a)
    while front:
        reached: dict[int, set[str]] = defaultdict(set)
        for node in front:
            for other in neighbours[node]:
                if not label[other]:
                    reached[other].add(label[node])
        for node, found in reached.items():
            label[node] = found.pop() if len(found) == 1 else NOWHERE
        front = {node for node in reached if label[node] != NOWHERE}
        for node in sorted(front, key=lambda n: -_rank(label[n])):
            rivals = {label[other] for other in neighbours[node] & front} - {NOWHERE}
            if any(_rank(rival) > _rank(label[node]) for rival in rivals):
                label[node] = NOWHERE
        front = {node for node in front if label[node] != NOWHERE}
    return label


def _named(groups: Sequence[str], label: Sequence[str]) -> list[str]:
    """Id of every node's component: of its first group, and its split where groups are divided."""
    ways = Counter(g for g, split in set(zip(groups, label, strict=True)) if split != NOWHERE)
    divided = {group for group, count in ways.items() if count > 1}
    texts = [f"{g}:{split}" if g in divided else g for g, split in zip(groups, label, strict=True)]
    return [hashlib.sha256(f"component:{text}".encode()).hexdigest()[:16] for text in texts]


def _smallest_members(nodes: int, edges: NDArray[np.int64]) -> list[int]:
    """For every node 0 … nodes - 1, the smallest node that it is connected to."""
    ends = edges.T
    # here, because stages that only read splits run where there is no scipy
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)  # of the place where each comes first
    smallest: list[int] = first[component].tolist()
    return smallest


def _same_group_or_concept(
    images: pa.Table, names: Sequence[tuple[str, str]]
) -> list[tuple[int, int]]:
    """Edges between the nodes `names` (group, split): of one group, or of one concept's groups."""
    nodes: dict[str, list[int]] = defaultdict(list)
    for index, (group, _) in enumerate(names):
        nodes[group].append(index)
    edges = [pair for found in nodes.values() for pair in combinations(found, 2)]
    for one, other in _same_concept(images):
        edges += product(nodes[one], nodes[other])
    return edges


def _same_concept(images: pa.Table) -> list[tuple[str, str]]:
    """Groups of different kinds of source that show one concept.

    A concept that one kind of source has in several groups ("person", "red sign") is a class, not
    a thing, and joins nothing.
    """
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    names = ["concept", "source", "group_key"]
    columns = images.select(names).group_by(names).aggregate([]).to_pydict()
    for concept, source, group in zip(*columns.values(), strict=True):
        found[" ".join(concept.lower().split())][source.split(":")[0]].add(group)
    edges = []
    for concept, kinds in found.items():
        if concept and len(kinds) > 1 and all(len(members) == 1 for members in kinds.values()):
            first, *others = sorted({member for members in kinds.values() for member in members})
            edges += [(first, other) for other in others]
    return edges


def near_duplicates(
    images: pa.Table, rgb: Callable[[str], Pixels], bits: int, l1: float
) -> list[tuple[int, int]]:
    """Row pairs of different groups that are the same picture to the eye.

    Sorted. Hashes of low quality say nothing, and join nothing.
    """
    usable = np.flatnonzero(images["pdq_quality"].to_numpy() >= MIN_QUALITY)
    coded = images["pdq"].combine_chunks()
    hashes = np.frombuffer(coded.buffers()[1], np.uint8).reshape(-1, 32)[coded.offset :]
    groups, ids = images["group_key"].combine_chunks(), images["pixel_id"].combine_chunks()
    edges = []
    for first, second in pairs_within(hashes[usable], bits):
        i, j = int(usable[first]), int(usable[second])
        if groups[i] != groups[j]:
            a, b = rgb(ids[i].as_py()), rgb(ids[j].as_py())
            if a.shape == b.shape and np.abs(a.astype(np.int16) - b).mean() / 255 <= l1:
                edges.append((i, j))
    return edges


def assign(
    classes: Mapping[str, Mapping[str, int]],
    *,
    test_fraction: float,
    val_fraction: float,
    seed: int,
    kept: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Give every component a split.

    A component of an earlier version keeps its split. A new one's place is its hash. Three rules
    bend that: a component with a large share of some relation class stays in train, two thirds of
    all pairs stay in train, and a class with less than half its held-out share is topped up in
    hash order. A class always keeps a component in train, so one with a single component is never
    held out.

    Args:
        classes: component id -> relation class -> number of pairs.
        kept: component id -> split, of components of an earlier version.

    Returns:
        component id -> "train", "val" or "test".
    """
    totals: Counter[str] = Counter()
    for counts in classes.values():
        totals.update(counts)
    asked = {"test": test_fraction, "val": val_fraction}
    both = test_fraction + val_fraction
    room = max(1 - _LEAST_TRAIN, both) * totals.total()
    place = {c: stable_hash("split", seed, c) / 2**64 for c in classes}
    limit = max(0.2, 2 * test_fraction)
    large = {c for c, n in classes.items() if any(n[k] > limit * totals[k] for k in n)}
    found = _Splits(classes, {c: split for c, split in (kept or {}).items() if c in classes}, room)
    new = [c for c in sorted(classes, key=lambda c: (c in large, place[c])) if c not in found.of]
    found.of |= dict.fromkeys(new, "train")
    for component in new:
        if place[component] < both and component not in large:
            split = "test" if place[component] < test_fraction else "val"
            found.hold(component, split, room * asked[split] / both)
    for split, fraction in asked.items():
        for name in sorted(totals):
            found.top_up(new, name, split, fraction * totals[name] / 2, large)
    return found.of


@dataclass
class _Splits:
    """The splits being filled; at most `room` pairs are held out."""

    classes: Mapping[str, Mapping[str, int]]
    of: dict[str, str]  # component id -> split
    room: float

    def __post_init__(self) -> None:
        self.held = Counter(dict.fromkeys(SPLITS_IN_ORDER[1:], 0))  # pairs
        for component, split in self.of.items():
            if split in self.held:
                self.held[split] += sum(self.classes[component].values())

    def hold(self, component: str, split: str, most: float) -> bool:
        """Move a component to `split` if that has at most `most` pairs then, and there is room."""
        size = sum(self.classes[component].values())
        fits = self.held[split] + size <= most and self.held.total() + size <= self.room
        if fits:
            self.of[component] = split
            self.held[split] += size
        return fits

    def top_up(
        self, order: Sequence[str], name: str, split: str, wanted: float, large: set[str]
    ) -> None:
        """Move components from train to `split` until it has `wanted` pairs of class `name`.

        Every class keeps a component in train.
        """
        have = sum(self.classes[c].get(name, 0) for c, at in self.of.items() if at == split)
        in_train = Counter(k for c, at in self.of.items() if at == "train" for k in self.classes[c])
        for component in order:
            if have >= max(1.0, wanted) or (component in large and have > 0):
                return
            counts = self.classes[component]
            if self.of[component] != "train" or not counts.get(name):
                continue
            if all(in_train[k] > 1 for k in counts) and self.hold(component, split, self.room):
                in_train.subtract(list(counts))
                have += counts[name]
