"""A split's pairs and images, read from its shards."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from kontext.data.buckets import Size
from kontext.data.pixels import Pixels, decode_png, pixel_id, png_size
from kontext.data.shards.write import map_file, tar_samples
from kontext.errors import ArtifactError
from kontext.store.artifacts.artifact_store import Artifact

T = TypeVar("T")


@dataclass(frozen=True)
class PairRow:
    """One pair of a split. `contexts` and `target` are rows of the split's images."""

    pair_id: str
    relation_class: str
    relation: str
    instruction: str
    instruction_short: str
    instruction_inverse: str
    target_caption: str
    context_caption: str
    params: Mapping[str, Any]
    source: str
    license_spdx: str
    split: str
    contexts: tuple[int, ...]
    target: int


_AS_WRITTEN = [each.name for each in fields(PairRow) if each.name not in ("contexts", "target")]


@dataclass(frozen=True)
class PairSet:
    """A split: each image once, and the pairs that refer to them."""

    pngs: Mapping[str, memoryview]  # by pixel id, sorted; bytes of shards that stay on disk
    rows: list[PairRow]  # in pair-id order

    @cached_property
    def pixel_ids(self) -> list[str]:
        """Of the M images, in their order."""
        return list(self.pngs)

    def pixels(self, rows: Sequence[int]) -> Pixels:
        """Images of one size by their rows: uint8 [n, H, W, 3]. Raises as `decoded` does."""
        parts = list(decoded(self.pngs, [self.pixel_ids[row] for row in rows], 256))
        return np.concatenate(parts) if parts else np.zeros((0, 0, 0, 3), np.uint8)

    def size(self, row: int) -> Size:
        """(width, height) of an image in pixels."""
        return png_size(self.pngs[self.pixel_ids[row]])

    def pictures(self, rows: Sequence[int]) -> list[Pixels]:
        """Images of any sizes by their rows, in their order. Raises as `decoded` does."""
        found: dict[int, Pixels] = {}
        for own in by_size(rows, self.size).values():
            found |= zip(own, self.pixels(own), strict=True)
        return [found[row] for row in rows]

    def of_class(self, relation_class: str) -> list[PairRow]:
        """The rows of one relation class."""
        return [row for row in self.rows if row.relation_class == relation_class]


def load_split(shards: Artifact, split: str) -> PairSet:
    """All of a split's pairs. Images are decoded when they are asked for.

    A split without shards gives an empty set.
    """
    pngs: dict[str, memoryview] = {}
    records: list[dict[str, Any]] = []
    for name in shards.names(f"{split}-"):
        if not name.endswith(".tar"):
            continue
        for key, members, _, _ in tar_samples(map_file(shards.path(name))):
            record = json.loads(bytes(members["json"]))
            assert record["pair_id"].startswith(key), "sample key and pair id disagree"
            pngs.setdefault(record["target_id"], members["tgt.png"])
            for i, image in enumerate(record["context_ids"]):
                pngs.setdefault(image, members[f"ctx{i}.png"])
            records.append(record)
    index = {name: row for row, name in enumerate(sorted(pngs))}
    records.sort(key=lambda record: str(record["pair_id"]))
    rows = [_row(record, index) for record in records]
    return PairSet({name: pngs[name] for name in index}, rows)


def decoded(pngs: Mapping[str, memoryview], ids: Sequence[str], batch: int) -> Iterator[Pixels]:
    """Images of one size, uint8 [b, H, W, 3], each checked against its id; a batch is read ahead.

    All must be of the first one's size.

    Raises:
        ArtifactError: an image's pixels are not those its id names, or sizes differ.
    """
    if not ids:
        return
    shape = decode_png(pngs[ids[0]]).shape

    def one(name: str) -> Pixels:
        rgb = decode_png(pngs[name])
        if rgb.shape != shape:
            raise ArtifactError(f"image {name[:12]} is {rgb.shape}, others are {shape}")
        if pixel_id(rgb) != name:
            raise ArtifactError(f"image {name[:12]} is damaged: its pixels do not match its id")
        return rgb

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding holds no interpreter lock
        coming = [pool.submit(one, name) for name in ids[:batch]]
        for start in range(0, len(ids), batch):
            now, following = coming, ids[start + batch : start + 2 * batch]
            coming = [pool.submit(one, name) for name in following]
            images: Pixels = np.empty((len(now), *shape), np.uint8)
            for row, future in enumerate(now):
                images[row] = future.result()
            yield images


def by_size(items: Iterable[T], size: Callable[[T], Size]) -> dict[Size, list[T]]:
    """Items by the size of each: the smallest first, those of one size in their order."""
    found: dict[Size, list[T]] = {}
    for item in items:
        found.setdefault(size(item), []).append(item)
    return {name: found[name] for name in sorted(found)}


def _row(record: Mapping[str, Any], index: Mapping[str, int]) -> PairRow:
    return PairRow(
        **{name: record[name] for name in _AS_WRITTEN},
        contexts=tuple(index[context] for context in record["context_ids"]),
        target=index[record["target_id"]],
    )
