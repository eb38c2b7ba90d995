"""What lies where in a folder of shards: found once by reading them, then kept beside them.

With it a loader plans epochs and reads single samples by byte range. The index is named by the
shards it describes, so shards that changed have another one, and it can never be stale.
"""

import hashlib
import io
import json
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kontext.data.shards.write import tar_samples
from kontext.errors import ArtifactError, ObjectExists
from kontext.store.objects import ObjectStore
from kontext.store.parquet import read_parquet

_TOKEN_SIDE = 16  # pixels of an image side per token: the codec's 8, times the packing's 2
_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("target", pa.int64()),
        ("contexts", pa.list_(pa.int64())),
    ],
    metadata={"comment": "Samples of shards: byte ranges, and tokens of target and contexts."},
)


@dataclass(frozen=True)
class ShardIndex:
    """N samples in pair-id order."""

    pair_ids: list[str]
    shards: list[str]  # object key of each sample's shard
    offset: NDArray[np.int64]  # [N] bytes, of the sample's first header
    length: NDArray[np.int64]  # [N] bytes, of all its members
    image_tokens: list[tuple[int, ...]]  # target, then each context

    def __len__(self) -> int:
        return len(self.pair_ids)


def load_index(store: ObjectStore, prefix: str) -> ShardIndex:
    """The index of the `.tar` objects below `prefix`, made and stored where there is none yet.

    Raises:
        ArtifactError: there are no shards, or a shard is not one of ours.
    """
    shards = [info for info in store.list_info(prefix) if info.key.endswith(".tar")]
    if not shards:
        raise ArtifactError(f"no shards below '{prefix}' in {store.url}")
    described = "\n".join(f"{info.key} {info.size} {info.etag}" for info in shards)
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    key = f"{prefix}index-{digest}.parquet"
    if store.exists(key):
        return _read(store.get(key))
    rows = [_row(at.key, *sample) for at in shards for sample in tar_samples(store.get(at.key))]
    rows.sort(key=itemgetter("pair_id"))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, compression="zstd")
    with suppress(ObjectExists):  # another reader was faster, with the same bytes
        store.put(key, sink.getvalue(), if_absent=True)
    return _read(sink.getvalue())


def _read(data: bytes) -> ShardIndex:
    columns = read_parquet(data).to_pydict()
    return ShardIndex(
        pair_ids=columns["pair_id"],
        shards=columns["shard"],
        offset=np.array(columns["offset"], np.int64),
        length=np.array(columns["length"], np.int64),
        image_tokens=[
            (target, *contexts)
            for target, contexts in zip(columns["target"], columns["contexts"], strict=True)
        ],
    )


def _row(
    shard: str, sample: str, members: dict[str, memoryview], start: int, end: int
) -> dict[str, Any]:
    try:
        record = json.loads(bytes(members["json"]))
        contexts = [_tokens(members[f"ctx{i}.png"]) for i in range(len(record["context_ids"]))]
        return {
            "pair_id": record["pair_id"],
            "shard": shard,
            "offset": start,
            "length": end - start,
            "target": _tokens(members["tgt.png"]),
            "contexts": contexts,
        }
    except (KeyError, json.JSONDecodeError) as error:
        raise ArtifactError(f"sample '{sample}' of shard '{shard}' lacks {error}") from error


def _tokens(png: memoryview) -> int:
    """Tokens of an image, from the sizes in its PNG header."""
    width = int.from_bytes(png[16:20], "big")
    height = int.from_bytes(png[20:24], "big")
    return -(-width // _TOKEN_SIDE) * -(-height // _TOKEN_SIDE)
