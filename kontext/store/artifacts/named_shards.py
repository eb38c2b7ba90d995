"""Shards under names that other tools read: `datasets/NAME/vN/shards/train-000000.tar`.

The bytes are a blob's. In a folder the name is a hard link: no byte is there twice. In a bucket the
server copies it (CopyObject): no byte comes through here, one request for up to 4 GiB, but the
bucket holds and bills the shard twice.

    datasets/<name>/v<n>/shards/<split>-<number>.tar   as wide as {000000..000012} needs
    datasets/<name>/v<n>/version.json                  its "shards": name -> SHA-256, bytes, pairs
"""

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kontext.errors import ObjectNotFound
from kontext.store.artifacts.artifact_store import blob_key
from kontext.store.objects import ObjectInfo, ObjectStore

CHANGES_RESULTS = False  # other names for what is there

_LOG = logging.getLogger("kontext.store")
Named = dict[str, dict[str, Any]]  # name -> sha256, bytes, samples

DATASETS, _SHARDS, _VERSION = "datasets/", "shards/", "version.json"


def version_prefix(name: str, version: int) -> str:
    """Where a dataset version lies in the store."""
    return f"{DATASETS}{name}/v{version}/"


def named(shards: Iterable[Mapping[str, Any]]) -> Named:
    """Names of SHARDS rows: numbered from 0 in each split, in the order of their own names."""
    found: Named = {}
    count: Counter[str] = Counter()
    for row in sorted(shards, key=lambda row: (row["split"], row["name"])):
        number = count[row["split"]]
        count[row["split"]] += 1
        facts = {"sha256": row["sha256"], "bytes": row["bytes"], "samples": row["samples"]}
        found[f"{row['split']}-{number:06d}.tar"] = facts
    return found


def put_names(objects: ObjectStore, prefix: str, shards: Named) -> Named:
    """Give the shards their names below a version's prefix; other names there go.

    Returns those that have one now: a shard whose bytes are not in this store is left out.
    """
    wanted = {f"{prefix}{_SHARDS}{name}": name for name in shards}
    for key in objects.list(prefix + _SHARDS):
        if key not in wanted:
            objects.delete(key)
    found: Named = {}
    for key, name in wanted.items():
        try:
            objects.copy(blob_key(shards[name]["sha256"]), key)
            found[name] = shards[name]
        except ObjectNotFound:
            _LOG.warning("%s: the bytes of this shard are not in %s", key, objects.url)
    return found


def ranges(names: Collection[str]) -> dict[str, str]:
    """Split -> its shards as one name with a brace range, as webdataset and bash expand it."""
    splits: dict[str, list[str]] = {}
    for name in sorted(names):
        split, _, number = name.removesuffix(".tar").rpartition("-")
        splits.setdefault(split, []).append(number)
    return {
        split: f"{split}-{numbers[0]}.tar"
        if len(numbers) == 1
        else f"{split}-{{{numbers[0]}..{numbers[-1]}}}.tar"
        for split, numbers in splits.items()
    }


def named_in(objects: ObjectStore, prefix: str) -> Named:
    """The named shards of a version, from its version.json; empty where it has none."""
    if not objects.exists(prefix + _VERSION):
        return {}
    found: Named = json.loads(objects.get(prefix + _VERSION)).get("shards", {})
    return found


def unused(objects: ObjectStore, blobs: Collection[str]) -> list[ObjectInfo]:
    """Named shards whose bytes are no blob of `blobs` (keys): nothing needs them any more."""
    found = objects.list_info(DATASETS)
    known: dict[str, Named] = {}
    gone = []
    for info in found:
        prefix, shards, name = info.key.rpartition(_SHARDS)
        if not shards:
            continue
        if prefix not in known:
            known[prefix] = named_in(objects, prefix)
        facts = known[prefix].get(name)
        if facts is None or blob_key(facts["sha256"]) not in blobs:
            gone.append(info)
    return gone


def copy_names(source: ObjectStore, target: ObjectStore) -> int:
    """Name shards in the target as the source does, where it has their blobs; how many versions.

    A version that the target knows already, by whatever catalog, is left as it is.
    """
    versions = 0
    for key in source.list(DATASETS):
        prefix, last, rest = key.rpartition(_VERSION)
        if not last or rest or target.list(prefix):
            continue
        shards = named_in(source, prefix)
        if shards and all(target.exists(blob_key(facts["sha256"])) for facts in shards.values()):
            put_names(target, prefix, shards)
            target.put(key, source.get(key))
            versions += 1
    return versions
