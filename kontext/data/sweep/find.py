"""What a sweep takes: pictures that today's lists name, and those that were made with them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kontext.data.forms import Crops, gated
from kontext.data.pixels import decode_png
from kontext.engine.stage import section_of
from kontext.safety.hashes import OPERATOR, HashGate
from kontext.safety.ids import Outcome, Reason
from kontext.safety.proof import prove_gate
from kontext.safety.rematch import NO_DIGEST, proved_rematch
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from kontext.store.parquet import read_parquet
from schemas.sections.data import IngestConfig

CHANGES_RESULTS = False  # removes what was made; a stage never asks it

Named = tuple[str, str]  # source, name inside of it
OptedOut = Callable[[str, str, str], bool]  # (source, ref, sha256 of the original) -> whether

_COLUMNS = ["pixel_id", "image_id", "pdq", "source", "source_ref"]


@dataclass
class Taken:
    """Pictures that go, by pixel id, and why."""

    why: dict[str, tuple[Reason, str]] = field(default_factory=dict)  # reason, and whose list
    image_of: dict[str, str] = field(default_factory=dict)  # SHA-256 of the original
    names: set[Named] = field(default_factory=set)  # of items whose pixels they are
    kept: int = 0  # pictures that were looked at
    holders: dict[str, set[str]] = field(default_factory=dict)  # ingest's digest -> those it has

    def __contains__(self, pixel_id: object) -> bool:
        return pixel_id in self.why


def find(
    store: ArtifactStore,
    gate: HashGate,
    opted_out: OptedOut = lambda *_: False,
    *,
    deep: bool = False,
) -> Taken:
    """What today's lists and opt-outs take of everything that any ingest artifact holds.

    A picture goes where all of it is named, or a crop that stages read of it.

    `deep` looks at the stored pixels again, as the gate looks at new ones: in all orientations and
    without borders. So does every sweep with artifacts of before, which keep no hashes of crops.

    Raises:
        CanaryError: what looks up does not find canaries.
    """
    artifacts = [Artifact(store, manifest) for manifest in store.list("ingest")]
    taken = Taken()
    images = _images(artifacts)
    taken.kept = len(images)
    columns = {name: images[name].to_pylist() for name in _COLUMNS if name != "pdq"}
    hashes = np.frombuffer(b"".join(images["pdq"].to_pylist()), np.uint8).reshape(-1, 32)
    cropped, crops = _crops(artifacts)
    owners, digests = columns["pixel_id"] + cropped, columns["image_id"] + [NO_DIGEST] * len(crops)
    for hit in proved_rematch(gate, np.concatenate([hashes, crops]), digests):
        taken.why.setdefault(owners[hit.row], (Reason.HASH_MATCH, hit.provider))
    again = artifacts if deep else [one for one in artifacts if not _has_crops(one)]
    for pixels, provider in _looked_at(again, gate):
        taken.why.setdefault(pixels, (Reason.HASH_MATCH, provider))
    if again:
        prove_gate(gate)
    of_rows = zip(*(columns[name] for name in _COLUMNS if name != "pdq"), strict=True)
    for pixels, digest, source, ref in of_rows:
        if pixels not in taken and opted_out(source, ref, digest):
            taken.why[pixels] = Reason.OPTED_OUT, "opt-outs"
    for artifact in artifacts if taken.why else ():
        _add_chains(artifact, taken)
    for pixels, digest in zip(columns["pixel_id"], columns["image_id"], strict=True):
        if pixels in taken:
            taken.image_of[pixels] = digest
    for artifact in artifacts if taken.why else ():
        for pixels, source, ref in _named(artifact):
            if pixels in taken:
                taken.holders.setdefault(artifact.digest, set()).add(pixels)
                taken.names.add((source, ref))
    return taken


def _images(artifacts: Iterable[Artifact]) -> pa.Table:
    """Every picture that any of them holds, once."""
    parts, seen = [], set[str]()
    for artifact in artifacts:
        for name in artifact.names("images/"):
            table = read_parquet(artifact.path(name), _COLUMNS)
            new = [pixels not in seen for pixels in table["pixel_id"].to_pylist()]
            seen.update(table["pixel_id"].to_pylist())
            parts.append(table if all(new) else table.filter(pa.array(new, pa.bool_())))
    empty = pa.table({name: pa.array([], pa.string()) for name in _COLUMNS})
    return pa.concat_tables(parts) if parts else empty


def _has_crops(artifact: Artifact) -> bool:
    """Whether the hashes of crops were kept."""
    names = artifact.names("images/")
    return all("crops" in pq.read_schema(artifact.path(name)).names for name in names)


def _crops(artifacts: Iterable[Artifact]) -> tuple[list[str], NDArray[np.uint8]]:
    """Pixel ids [N] and hashes [N, 32] of all crops: one picture's may differ by artifact."""
    owners, hashes = list[str](), [np.empty((0, 32), np.uint8)]
    for artifact in filter(_has_crops, artifacts):
        for name in artifact.names("images/"):
            table = read_parquet(artifact.path(name), ["pixel_id", "crops"]).combine_chunks()
            lists = table["crops"].combine_chunks()
            if not len(values := pc.struct_field(lists.flatten(), "pdq")):
                continue
            owners += table["pixel_id"].take(pc.list_parent_indices(lists)).to_pylist()
            joined = b"".join(values.to_pylist())
            hashes.append(np.frombuffer(joined, np.uint8).reshape(-1, 32))
    return owners, np.concatenate(hashes)


def _looked_at(artifacts: Iterable[Artifact], gate: HashGate) -> Iterator[tuple[str, str]]:
    """Pixel id, and whose list, of stored pictures of which the gate stops all or a crop."""
    for artifact in artifacts:
        crops = Crops.of(section_of(artifact.manifest, IngestConfig))
        for name in artifact.names("pixels/"):
            table = read_parquet(artifact.path(name))
            for pixels, png in zip(*table.select(["pixel_id", "png"]).columns, strict=True):
                rgb = decode_png(png.as_py())
                result = gated(gate, gate.check_pixels(rgb), crops(rgb))[-1]
                listed = result.outcome is Outcome.DROP and result.reason is not Reason.CANARY
                if listed and not result.provider.startswith(f"{OPERATOR}@"):
                    yield pixels.as_py(), result.provider


def _add_chains(artifact: Artifact, taken: Taken) -> None:
    """All pictures of a source's own pairs that lead from a taken one to another, step by step.

    A pair's target was made of its context, and the next turn of that. References are only looked
    at, so they lead nowhere.
    """
    if not artifact.names("given.parquet"):
        return
    given = artifact.table("given.parquet").select(["context_ids", "target_id", "status"])
    beside: dict[str, list[str]] = defaultdict(list)
    for contexts, target, status in zip(*given.to_pydict().values(), strict=True):
        if status == "ok" and contexts:
            beside[contexts[0]].append(target)
            beside[target].append(contexts[0])
    todo = [pixels for pixels in taken.why if pixels in beside]
    while todo:
        here = todo.pop()
        for other in beside[here]:
            if other not in taken:
                reason, provider = taken.why[here]
                related = reason if reason is Reason.OPTED_OUT else Reason.RELATED
                taken.why[other] = related, provider
                todo.append(other)


def _named(artifact: Artifact) -> Iterator[tuple[str, str, str]]:
    """Pixel id, source and name of everything that has pixels, duplicates among it."""
    for name in (*artifact.names("images/"), *artifact.names("outcomes.parquet")):
        columns = read_parquet(artifact.path(name), ["pixel_id", "source", "source_ref"])
        yield from zip(*columns.to_pydict().values(), strict=True)


def pairs_of(mine: Artifact, taken: Taken) -> set[str]:
    """Ids of the mined pairs that show a picture that is taken."""
    table = mine.table("pairs.parquet").select(["pair_id", "context_ids", "target_id"])
    rows = table.to_pydict()
    return {
        pair
        for pair, contexts, target in zip(*rows.values(), strict=True)
        if target in taken or any(one in taken for one in contexts)
    }
