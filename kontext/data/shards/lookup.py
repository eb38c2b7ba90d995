"""One pair's pictures and text, read from its shard by byte range."""

import json
from dataclasses import dataclass
from typing import Any

from kontext.data.pixels import decode_png, pixel_id
from kontext.data.shards.write import tar_members
from kontext.errors import ArtifactError, CatalogError
from kontext.store.artifacts.artifact_store import blob_key
from kontext.store.catalog.catalog import Catalog
from kontext.store.catalog.explain import find_pair
from kontext.store.lake.ddl import quote
from kontext.store.objects import ObjectStore

CHANGES_RESULTS = False  # shows what is there


@dataclass(frozen=True)
class PairFiles:
    """A pair as its shard holds it."""

    dataset: str
    record: dict[str, Any]  # the JSON of its sample: pair id, texts, relation, split, …
    pictures: dict[str, bytes]  # PNG by name: context (or context-1, …), target


def read_pair(
    catalog: Catalog, objects: ObjectStore, start: str, at: str | None = None, dataset: str = ""
) -> PairFiles:
    """The pair whose id starts so, now or at a dataset version. Its pictures are checked.

    `dataset` is where it is looked up if it is in several.
    Only pairs in shards can be read: all their images have passed the screening.

    Raises:
        CatalogError: no pair starts so, or it is in no shard.
        ArtifactError: the shard's bytes are damaged.
    """
    pair_id, dataset = find_pair(catalog, start, at, dataset)
    key = f"pair_id = {quote(pair_id)} AND dataset = {quote(dataset)}"
    where = catalog.query(
        "SELECT s.sha256, m.offset_bytes, m.length_bytes FROM shard_members m "
        f"JOIN shards s USING (dataset, shard_id) WHERE {key}",
        at=at,
    ).to_pylist()
    if not where:
        why = catalog.query(f"SELECT reason FROM rejected_pairs WHERE {key}", at=at)["reason"]
        reasons = ", ".join(map(str, why.to_pylist())) or "it would cross two splits"
        raise CatalogError(f"pair {pair_id[:12]} is in no shard ({reasons}): it cannot be shown")
    at_bytes = int(where[0]["offset_bytes"]), int(where[0]["length_bytes"])
    data = objects.get(blob_key(where[0]["sha256"]), *at_bytes)
    files = {name.partition(".")[2]: bytes(body) for name, body in tar_members(data)}
    return _checked(pair_id, dataset, files)


def _checked(pair_id: str, dataset: str, files: dict[str, bytes]) -> PairFiles:
    try:
        record = json.loads(files["json"])
        contexts = [(files[f"ctx{i}.png"], of) for i, of in enumerate(record["context_ids"])]
        target = files["tgt.png"], record["target_id"]
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"the sample of pair {pair_id[:12]} is damaged: {error}") from error
    named = {
        "context" if len(contexts) == 1 else f"context-{number}": found
        for number, found in enumerate(contexts, 1)
    } | {"target": target}
    if wrong := [name for name, (png, of) in named.items() if pixel_id(decode_png(png)) != of]:
        raise ArtifactError(f"pictures of pair {pair_id[:12]} are damaged: {', '.join(wrong)}")
    return PairFiles(dataset, record, {name: png for name, (png, _) in named.items()})
