"""What can be compared: the items of an evaluation, their pictures, and who edited them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from kontext.data.pixels import png_size
from kontext.data.shards.read import load_split
from kontext.data.shards.write import map_file
from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from schemas.words import unknown

IDENTITY, ORACLE, WRONG = "identity", "oracle", "wrong"
_READ = ("pair_id", "category", "instruction", "cluster", "editor", "picture")
_PLACE = ("offset_bytes", "length_bytes")


@dataclass(frozen=True)
class ArenaItem:
    """One held-out edit; items of a component are related."""

    pair_id: str
    category: str
    instruction: str
    component_id: str


@dataclass(frozen=True, eq=False)
class Contest:
    """Items and editors. `png` gives what an editor made of an item, as a PNG.

    It knows `identity` (the context), `oracle` (the target) and `wrong` (another item's target)
    beside those who compete.
    """

    evaluation: str  # digest of the artifact
    items: tuple[ArenaItem, ...]
    editors: tuple[str, ...]
    png: Callable[[ArenaItem, str], bytes]
    wrong: frozenset[str] = frozenset()  # pair ids that have a wrong edit

    @cached_property
    def pairs(self) -> list[tuple[ArenaItem, str, str]]:
        """All that may be asked: an item and two editors who made different pictures of it.

        Identity against oracle is left to the gold items.
        """
        known = [p for p in combinations(sorted(self.editors), 2) if p != (IDENTITY, ORACLE)]
        return [
            (i, *p) for i in self.items for p in known if self.png(i, p[0]) != self.png(i, p[1])
        ]

    @cached_property
    def gold(self) -> list[tuple[ArenaItem, str]]:
        """Items with an edit that is known to be wrong, to be shown beside the oracle's."""
        return [
            (item, name)
            for item in self.items
            for name in (IDENTITY, WRONG)
            if name == IDENTITY or item.pair_id in self.wrong
        ]


def open_contest(store: ArtifactStore, ref: str, editors: Sequence[str] = ()) -> Contest:
    """The contest of an evaluation, or of the one that an artifact (a model) was made from.

    Args:
        editors: who competes; by default those whose pictures were kept, identity and oracle.

    Raises ArtifactError: no evaluation, no pictures of editors, an unknown or a single editor.
    """
    evaluated = _evaluation(store, ref)
    name = f"evaluate/{evaluated.digest[:12]}"
    table = evaluated.table("items.parquet")
    if "picture" not in table.column_names or not evaluated.names("edits.tar"):
        raise ArtifactError(f"{name} kept no editors' pictures: evaluate again with this kontext")
    kept = [row for row in table.select([*_READ, *_PLACE]).to_pylist() if row["picture"]]
    known = (*dict.fromkeys(row["editor"] for row in kept), ORACLE, IDENTITY)
    for editor in editors:
        if editor not in known:
            raise ArtifactError(f"{name}: {unknown('editor', editor, known)}")
    chosen = tuple(dict.fromkeys(editors)) or known
    if len(chosen) < 2:
        raise ArtifactError(f"{name}: an arena needs two editors (known: {', '.join(known)})")
    return _contest(
        evaluated, store.open("shard", evaluated.manifest.inputs["shard"]), kept, chosen
    )


def _evaluation(store: ArtifactStore, ref: str) -> Artifact:
    found = store.show(ref)
    if found.stage == "evaluate":
        return found
    digest = found.manifest.inputs.get("evaluate")
    if not digest:
        raise ArtifactError(
            f"{found.stage}/{found.digest[:12]} is no evaluation, nor made from one"
        )
    return store.open("evaluate", digest)


def _contest(
    evaluated: Artifact, shards: Artifact, kept: list[dict[str, str]], chosen: tuple[str, ...]
) -> Contest:
    pairs = load_split(shards, "test")
    truths = {row.pair_id: row for row in pairs.rows if row.contexts}
    ids = pairs.pixel_ids
    edits = map_file(evaluated.path("edits.tar"))
    places = {(row["pair_id"], row["editor"]): [int(row[name]) for name in _PLACE] for row in kept}
    items = tuple(
        ArenaItem(row["pair_id"], row["category"], row["instruction"], row["cluster"])
        for row in {row["pair_id"]: row for row in kept}.values()
        if row["pair_id"] in truths  # a sweep may have taken it
    )
    targets = {item.pair_id: pairs.pngs[ids[truths[item.pair_id].target]] for item in items}
    others = _others(items, targets)

    def png(item: ArenaItem, editor: str) -> bytes:
        if editor == IDENTITY:
            return bytes(pairs.pngs[ids[truths[item.pair_id].contexts[0]]])
        if editor in (ORACLE, WRONG):
            return bytes(targets[item.pair_id if editor == ORACLE else others[item.pair_id]])
        start, length = places[item.pair_id, editor]
        return bytes(edits[start : start + length])

    if not items:
        raise ArtifactError(f"evaluate/{evaluated.digest[:12]} has no items that can be shown")
    return Contest(evaluated.digest, items, chosen, png, frozenset(others))


def _others(items: Sequence[ArenaItem], targets: dict[str, memoryview]) -> dict[str, str]:
    """For each item another one: of another component, of one size with it, where there is one."""
    size = {name: png_size(data) for name, data in targets.items()}
    found = {}
    for item in items:
        fitting = [
            other.pair_id
            for other in items
            if other.component_id != item.component_id
            and size[other.pair_id] == size[item.pair_id]
            and targets[other.pair_id] != targets[item.pair_id]
        ]
        if fitting:
            draw = hashlib.sha256(f"{item.pair_id}:wrong".encode()).digest()
            found[item.pair_id] = fitting[int.from_bytes(draw[:8], "big") % len(fitting)]
    return found
