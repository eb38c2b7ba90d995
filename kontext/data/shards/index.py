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

from kontext.data.buckets import MULTIPLE, Size
from kontext.data.pixels import png_size
from kontext.data.shards.write import tar_samples
from kontext.errors import ArtifactError, ObjectExists
from kontext.store.objects import ObjectStore
from kontext.store.parquet import read_parquet

_Sizes = tuple[Size, ...]
_VERSION = "2"  # of the columns
_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("widths", pa.list_(pa.int64())),
        ("heights", pa.list_(pa.int64())),
    ],
    metadata={"comment": "Samples of shards: byte ranges, and sizes of target and contexts."},
)


@dataclass(frozen=True)
class ShardIndex:
    """N samples in pair-id order."""

    pair_ids: list[str]
    shards: list[str]  # object key of each sample's shard
    offset: NDArray[np.int64]  # [N] bytes, of the sample's first header
    length: NDArray[np.int64]  # [N] bytes, of all its members
    image_sizes: list[_Sizes]  # (width, height) in pixels of the target, then of each context

    def __len__(self) -> int:
        return len(self.pair_ids)

    @property
    def image_tokens(self) -> list[tuple[int, ...]]:
        """Tokens of the target, then of each context."""
        return [tuple(map(tokens_of, sizes)) for sizes in self.image_sizes]


def load_index(store: ObjectStore, prefix: str) -> ShardIndex:
    """The index of the `.tar` objects below `prefix`, made and stored where there is none yet.

    Raises:
        ArtifactError: there are no shards, or a shard is not one of ours.
    """
    shards = [info for info in store.list_info(prefix) if info.key.endswith(".tar")]
    if not shards:
        raise ArtifactError(f"no shards below '{prefix}' in {store.url}")
    described = "\n".join(f"{info.key} {info.size} {info.etag}" for info in shards)
    digest = hashlib.sha256(f"{_VERSION}\n{described}".encode()).hexdigest()[:16]
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
        image_sizes=[
            tuple(zip(widths, heights, strict=True))
            for widths, heights in zip(columns["widths"], columns["heights"], strict=True)
        ],
    )


def _row(
    shard: str, sample: str, members: dict[str, memoryview], start: int, end: int
) -> dict[str, Any]:
    try:
        record = json.loads(bytes(members["json"]))
        names = ("tgt.png", *(f"ctx{i}.png" for i in range(len(record["context_ids"]))))
        sizes = [png_size(members[name]) for name in names]
        return {
            "pair_id": record["pair_id"],
            "shard": shard,
            "offset": start,
            "length": end - start,
            "widths": [width for width, _ in sizes],
            "heights": [height for _, height in sizes],
        }
    except (KeyError, json.JSONDecodeError) as error:
        raise ArtifactError(f"sample '{sample}' of shard '{shard}' lacks {error}") from error


def tokens_of(size: Size) -> int:
    """Tokens of an image: 16 x 16 pixels each, the codec's 8 times the packing's 2."""
    width, height = size
    return -(-width // MULTIPLE) * -(-height // MULTIPLE)
