"""What consumed pictures: by the manifests' inputs, and by which pairs lie in which shards."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kontext.data.sweep.find import Taken, pairs_of
from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from kontext.store.artifacts.lineage import Ref, ancestors
from schemas.manifest import Manifest

CHANGES_RESULTS = False  # looks at what there is

# what they hold is weights
CHECKPOINTS = ("train-autoencoder", "finetune", "exclude", "distill", "publish")
_BEFORE_SHARDS = ("mine", "caption", "screen")  # they saw every picture of their ingest


@dataclass(frozen=True)
class Consumer:
    """An artifact that was made with some of the pictures."""

    stage: str
    digest: str
    pictures: int  # of those that are taken
    pairs: int  # with one of them: in its shards, or those that it is made from
    splits: tuple[str, ...]  # that those pairs are in; what only `test` has, nothing is trained on
    tags: tuple[str, ...]

    @property
    def ref(self) -> Ref:
        """Stage and digest."""
        return self.stage, self.digest

    @property
    def is_checkpoint(self) -> bool:
        """Whether it holds weights, and no pictures."""
        return self.stage in CHECKPOINTS

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "checkpoint": self.is_checkpoint}


def consumers(store: ArtifactStore, taken: Taken) -> list[Consumer]:
    """Every artifact that holds, saw or was made with a picture that is taken, oldest first.

    An artifact that was made from shards consumed what lies in them: not pairs that were dropped
    before, and of the data nothing else.
    """
    manifests = {(m.stage, m.digest): m for m in store.list()}
    tags: dict[Ref, list[str]] = {}
    for name, ref in store.tags().items():
        tags.setdefault(ref, []).append(name)
    in_shards = {
        ref: found
        for ref, m in manifests.items()
        if m.stage == "shard" and (found := _in_shards(store, m, taken))
    }
    listed = []
    for ref, manifest in manifests.items():
        consumed = _of(store, ref, manifest, manifests, taken, in_shards)
        if consumed is not None:
            pictures, pairs, splits = consumed
            own = tuple(sorted(tags.get(ref, ())))
            listed.append(Consumer(*ref, pictures, pairs, tuple(sorted(splits)), own))
    return listed


_Found = tuple[int, int, set[str]]


def _of(
    store: ArtifactStore,
    ref: Ref,
    manifest: Manifest,
    manifests: dict[Ref, Manifest],
    taken: Taken,
    in_shards: Mapping[Ref, tuple[int, set[str]]],
) -> _Found | None:
    made_from = _made_from(store, manifests, ref)
    pictures = set().union(
        *(taken.holders.get(digest, set()) for stage, digest in made_from if stage == "ingest")
    )
    shards = [in_shards[one] for one in made_from if one in in_shards]
    pairs, splits = sum(n for n, _ in shards), set().union(*(own for _, own in shards))
    sees_all = manifest.stage in ("ingest", *_BEFORE_SHARDS, "index")
    if pairs or (sees_all and pictures):
        return len(pictures), pairs, splits
    return None


def _made_from(store: ArtifactStore, manifests: dict[Ref, Manifest], ref: Ref) -> set[Ref]:
    """An artifact, its inputs, the weights that it began with, and theirs."""
    found: set[Ref] = set()
    todo = {ref}
    while todo:
        new = ancestors(manifests, todo) - found
        found |= new
        named = {name for one in new for name in _given(manifests[one].config)}
        todo = set()
        for name in named:
            with suppress(ArtifactError):  # a file's
                todo.add(store.resolve(name))
        todo = (todo - found) & manifests.keys()
    return found


def _given(config: Mapping[str, Any]) -> set[str]:
    """What the given weights of an artifact are: other artifacts, or digests of files."""
    weights = config.get("weights") or {}  # `init` is what earlier versions wrote
    return {str(one) for one in (config.get("init"), *weights.values()) if one}


def _in_shards(
    store: ArtifactStore, manifest: Manifest, taken: Taken
) -> tuple[int, set[str]] | None:
    """How many pairs of the shards show a taken picture, and in which splits."""
    mine = store.manifest("mine", manifest.inputs.get("mine", ""))
    if mine is None:
        return None
    gone = pairs_of(Artifact(store, mine), taken)
    made = Artifact(store, manifest)
    members = made.table("shard_members.parquet").select(["shard_id", "pair_id"])
    lost = members.filter(
        pc.is_in(members["pair_id"], value_set=pa.array(sorted(gone), pa.string()))
    )
    if not len(lost):
        return None
    columns = made.table("shards.parquet").select(["shard_id", "split"]).to_pydict()
    split_of = dict(zip(*columns.values(), strict=True))
    return len(lost), {split_of[shard] for shard in set(lost["shard_id"].to_pylist())}
