"""The held-out bench: edits of the test split with known targets and exact change masks."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from kontext.data.buckets import Size, fit
from kontext.errors import ArtifactError
from kontext.evaluate.categories import SCORED_CATEGORIES, scored_category
from kontext.evaluate.pixels import (
    Images,
    Masks,
    Picture,
    Rows,
    alike,
    as_images,
    change_mask,
    in_order,
    taken,
)
from kontext.store.artifacts.artifact_store import Artifact
from schemas.sections.evaluation import EvaluateConfig
from schemas.tables import CATEGORIES

if TYPE_CHECKING:
    from kontext.data.shards.read import PairRow

MAX_HELD_OUT = 2048
MAX_RIVALS = 8
T = TypeVar("T")
Loader = Callable[[Sequence[int]], Images | Sequence[Picture]]  # pictures by their rows


@dataclass(frozen=True)
class Item:
    """One held-out edit.

    `cluster` is its connected component: items of a cluster are related. `asked` is what the
    instruction asks for in the miner's labels, `expression=angry`, whatever its words.
    """

    pair_id: str
    category: str
    relation: str
    asked: str
    instruction: str
    target_caption: str
    context_caption: str
    source: str
    cluster: str
    inverse: str = ""  # the instruction that undoes it, where it has one


@dataclass(frozen=True, eq=False)
class Bench:
    """Items with their images. Arrays share the item axis. Two are equal only if they are one.

    context, target: uint8 [N, H, W, 3]; mask: bool [N, H, W], true where the image should change.
    Where items differ in size they are arrays of N pictures; an item's own have one size.
    `rivals` has by item the targets of other edits of its context by its relation, uint8
    [K, H, W, 3], where there are any: what a wrong choice would look like.
    `available` and `excluded` count test pairs per category before the choice; excluded ones have
    an empty mask, several context images, or one of another size than the target. `whole` is the
    bench that this is a part of, where it is one.
    """

    items: tuple[Item, ...]
    context: Images
    target: Images
    mask: Masks
    mask_threshold: float
    rivals: Mapping[int, Images] = field(default_factory=dict)
    available: Mapping[str, int] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)
    held_out: Images = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    held_out_clusters: tuple[str, ...] = ()
    whole: Bench | None = None

    @property
    def sizes(self) -> list[Size]:
        """All sizes (width, height) of items."""
        shapes = [taken(self.target, rows[:1]).shape for rows in alike(self.target)]
        return sorted({(width, height) for _, height, width, _ in shapes})

    @cached_property
    def parts(self) -> list[tuple[Rows, Bench]]:
        """Benches of the items of each size, and their rows; itself where there is one."""
        groups = alike(self.target)
        return [(rows, self if len(groups) == 1 else self.part(rows)) for rows in groups]

    @cached_property
    def all_targets(self) -> Images:
        """Targets of the whole bench, at the size of this part of it."""
        if self.whole is None:
            return self.target
        height, width = self.target.shape[1:3]
        return np.stack([resized(target, (width, height)) for target in self.whole.target])

    def part(self, rows: Rows) -> Bench:
        """A bench of some items, which have one size."""
        return Bench(
            items=tuple(self.items[row] for row in rows),
            context=taken(self.context, rows),
            target=taken(self.target, rows),
            mask=taken(self.mask, rows),
            mask_threshold=self.mask_threshold,
            rivals={i: self.rivals[row] for i, row in enumerate(rows) if row in self.rivals},
            whole=self,
        )

    def __len__(self) -> int:
        return len(self.items)

    @property
    def categories(self) -> list[str]:
        """Categories that have items, in KontextBench's order; those scored apart last."""
        present = {item.category for item in self.items}
        return [name for name in SCORED_CATEGORIES if name in present]

    def where(self, category: str) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Indices of a category's items, in bench order."""
        return np.array([i for i, x in enumerate(self.items) if x.category == category], np.int64)

    @classmethod
    def from_shards(
        cls,
        shards: Artifact,
        config: EvaluateConfig,
        split: str = "test",
        wanted: Callable[[PairRow], bool] = lambda row: True,
    ) -> Bench:
        """Choose items from a split of a shard artifact, of the edits that are wanted.

        Raises ArtifactError when it has none, or is broken: nothing of it is scored then.
        """
        from kontext.data.shards.read import load_split

        try:
            pairs = load_split(shards, split)
        except KeyError as error:
            raise ArtifactError(
                f"a sample of the {split} split has no {error} in its shard: `kontext artifacts "
                f"verify shard/{shards.digest}` says what is damaged"
            ) from error
        columns = ["pair_id", "split", "component_id"]
        table = shards.table("splits.parquet").select(columns).to_pylist()
        _check_pairs(
            split,
            [row.pair_id for row in pairs.rows],
            [row["pair_id"] for row in table if row["split"] == split],
        )
        component = {row["pair_id"]: row["component_id"] for row in table}
        edits = [row for row in pairs.rows if row.relation_class in CATEGORIES]
        targets: dict[tuple[tuple[int, ...], str], list[int]] = {}
        for row in edits:
            targets.setdefault((row.contexts, row.relation), []).append(row.target)
        candidates = [
            BenchCandidate(
                _item(row, component[row.pair_id]),
                row.contexts,
                row.target,
                tuple(dict.fromkeys(targets[row.contexts, row.relation])),
            )
            for row in edits
            if wanted(row)
        ]
        bench = build(candidates, pairs.pictures, config)
        of_image = {
            image: component[row.pair_id]
            for row in pairs.rows
            for image in (*row.contexts, row.target)
        }
        rows = range(min(MAX_HELD_OUT, len(pairs.pngs)))  # by content id: as good as shuffled
        held_out = as_images(pairs.pictures(rows))
        clusters = tuple(of_image[image] for image in rows)
        return replace(bench, held_out=held_out, held_out_clusters=clusters)


def _check_pairs(split: str, found: Sequence[str], named: Sequence[str]) -> None:
    """Raise ArtifactError where a split's shards do not hold the very pairs that it names."""
    twice = sorted(pair for pair, count in Counter(found).items() if count > 1)
    if twice:
        raise ArtifactError(f"{len(twice)} pairs are in the {split} split twice, {twice[0][:12]} …")
    if set(found) != set(named) or len(set(named)) < len(named):
        odd = sorted(set(found) ^ set(named))
        raise ArtifactError(
            f"the {split} split names {len(named)} pairs and its shards hold {len(found)}"
            + (f": {odd[0][:12]} is not in both" if odd else ", some twice")
        )


@dataclass(frozen=True)
class BenchCandidate:
    """A test pair before the choice: its item and the rows of its images.

    `choices` are the targets of all edits of this context by this relation, its own among them.
    """

    item: Item
    context: tuple[int, ...]
    target: int
    choices: tuple[int, ...] = ()


def build(
    candidates: Iterable[BenchCandidate],
    images: Loader,
    config: EvaluateConfig,
) -> Bench:
    """Choose up to `items_per_category` items per category, the same ones every time.

    Clusters take turns in an order drawn from the seed, so a big cluster cannot fill a category.
    Each gives an edit of which the category has fewest by what it asks for, so that a category's
    figure is not left to how many easy values were drawn.

    Args:
        images: gives the pictures of n rows, uint8 [H, W, 3] each.
    """
    grouped: dict[str, list[BenchCandidate]] = {name: [] for name in SCORED_CATEGORIES}
    for candidate in candidates:
        grouped[candidate.item.category].append(candidate)
    available = {name: len(found) for name, found in grouped.items() if found}
    excluded: Counter[str] = Counter()
    chosen: list[BenchCandidate] = []
    for found in grouped.values():
        count = 0
        for candidate in _in_order(found, config.seed):
            if count == config.items_per_category:
                break
            if len(candidate.context) != 1 or not _changes(candidate, images, config):
                excluded[candidate.item.category] += 1
                continue
            chosen.append(candidate)
            count += 1
    if not chosen:
        raise ArtifactError("the test split holds no edit with a visible change: nothing to score")
    context = as_images(images([c.context[0] for c in chosen]))
    target = as_images(images([c.target for c in chosen]))
    groups = alike(target)
    masks = [
        change_mask(taken(context, rows), taken(target, rows), config.mask_threshold)
        for rows in groups
    ]
    return Bench(
        items=tuple(c.item for c in chosen),
        context=context,
        target=target,
        mask=masks[0] if len(groups) == 1 else as_images(in_order(groups, masks)),
        mask_threshold=config.mask_threshold,
        rivals={
            i: rivals for i, c in enumerate(chosen) if len(rivals := _rivals(c, images, config))
        },
        available=available,
        excluded=dict(excluded),
    )


def _changes(candidate: BenchCandidate, images: Loader, config: EvaluateConfig) -> bool:
    (context,), (target,) = images([candidate.context[0]]), images([candidate.target])
    if context.shape != target.shape:
        return False
    return bool(change_mask(context, target, config.mask_threshold).any())


def _rivals(candidate: BenchCandidate, images: Loader, config: EvaluateConfig) -> Images:
    """Other choices than the target, at most MAX_RIVALS, that are visibly not the same picture."""
    (target,) = images([candidate.target])
    others = [row for row in candidate.choices if row != candidate.target]
    if not others:
        return np.zeros((0, *target.shape), np.uint8)
    size = (target.shape[1], target.shape[0])
    found = np.stack([resized(other, size) for other in images(others)])
    return unlike(found, target, config.mask_threshold)


def unlike(pictures: Images, target: Picture, threshold: float) -> Images:
    """Those of pictures [K, H, W, 3] that are visibly not the target, at most MAX_RIVALS."""
    return pictures[change_mask(pictures, target, threshold).any(axis=(1, 2))][:MAX_RIVALS]


def resized(picture: Picture, size: Size) -> Picture:
    """The largest centred part of a picture that has the shape of `size`, at that size."""
    return fit((picture.shape[1], picture.shape[0]), size)(picture)


def _in_order(candidates: Sequence[BenchCandidate], seed: int) -> Iterator[BenchCandidate]:
    """Candidates, clusters in turn; of a cluster, one that asks for what came least so far."""

    def draw(text: str) -> str:
        return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()

    waiting: dict[str, dict[str, deque[BenchCandidate]]] = {}
    for candidate in sorted(candidates, key=lambda c: draw(c.item.pair_id)):
        own = waiting.setdefault(candidate.item.cluster, {})
        own.setdefault(candidate.item.asked, deque()).append(candidate)
    came: Counter[str] = Counter()
    heaps = {  # how often a value had come when it was put there; corrected when it is looked at
        cluster: [(0, place, what) for place, what in enumerate(waiting[cluster])]
        for cluster in sorted(waiting, key=draw)
    }
    while heaps:
        for cluster, heap in list(heaps.items()):
            while heap[0][0] < came[heap[0][2]]:
                _, place, what = heap[0]
                heapq.heapreplace(heap, (came[what], place, what))
            what = heap[0][2]
            yield waiting[cluster][what].popleft()
            came[what] += 1
            if not waiting[cluster][what]:
                heapq.heappop(heap)
            if not heap:
                del heaps[cluster]


def in_turn(
    items: Iterable[T], group: Callable[[T], str], order: Callable[[str], Any] | None = None
) -> list[T]:
    """Items (none is None) in their order, their groups taking turns in the order of `order`."""
    queues: dict[str, list[T]] = {}
    for item in items:
        queues.setdefault(group(item), []).append(item)
    turns = zip_longest(*(queues[name] for name in sorted(queues, key=order)))
    return [item for turn in turns for item in turn if item is not None]


def asked(row: PairRow) -> str:
    """What a pair's instruction asks for, in the miner's labels; its words where it has none."""
    params = row.params
    return f"{params['attribute']}={params['to']}" if "to" in params else row.instruction


def _item(row: PairRow, component: str) -> Item:
    return Item(
        pair_id=row.pair_id,
        category=scored_category(row),
        relation=row.relation,
        asked=asked(row),
        instruction=row.instruction,
        target_caption=row.target_caption,
        context_caption=row.context_caption,
        source=row.source,
        cluster=component,
        inverse=row.instruction_inverse,
    )
