"""Reading shards: streamed through the webdataset library, or a whole split into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kontext.data.pixels import Pixels, decode_png, pixel_id
from kontext.data.shards import tar_members
from kontext.errors import ArtifactError
from kontext.stage import ArtifactReader


@dataclass(frozen=True)
class Sample:
    """One decoded sample. `record` is the JSON member."""

    key: str
    contexts: tuple[Pixels, ...]  # uint8 [H, W, 3] each; empty for text-to-image
    target: Pixels  # uint8 [H, W, 3]
    record: dict[str, Any]


@dataclass(frozen=True)
class PairRow:
    """One pair of a split. `contexts` and `target` are rows of `PairSet.images`."""

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


@dataclass(frozen=True)
class PairSet:
    """A split in memory: each image once, and the pairs that refer to them."""

    images: Pixels  # uint8 [M, H, W, 3]
    pixel_ids: list[str]  # of the images, in the same order
    rows: list[PairRow]  # in pair-id order

    def of_class(self, relation_class: str) -> list[PairRow]:
        """The rows of one relation class."""
        return [row for row in self.rows if row.relation_class == relation_class]


def read_shards(paths: Sequence[Path]) -> Iterator[Sample]:
    """Stream samples of local shards in order, through the webdataset library."""
    import webdataset

    if not paths:
        return
    urls = [str(Path(path).absolute()) for path in paths]
    # members are decoded here: webdataset's own decoder would also unpickle what it does not expect
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        record = json.loads(sample["json"])
        count = len(record["context_ids"])
        yield Sample(
            key=sample["__key__"],
            contexts=tuple(decode_png(sample[f"ctx{index}.png"]) for index in range(count)),
            target=decode_png(sample["tgt.png"]),
            record=record,
        )


def load_split(shards: ArtifactReader, split: str) -> PairSet:
    """All of a split's pairs in memory, every image decoded once and checked against its id.

    A split without shards gives an empty set.

    Raises:
        ArtifactError: an image's pixels are not those its id names, or sizes differ.
    """
    pngs: dict[str, bytes] = {}
    records: list[dict[str, Any]] = []
    for name in shards.names(f"{split}-"):
        if name.endswith(".tar"):
            _read_tar(shards.path(name), pngs, records)
    ids = sorted(pngs)
    index = {name: row for row, name in enumerate(ids)}
    records.sort(key=lambda record: str(record["pair_id"]))
    return PairSet(
        images=_decode(ids, pngs),
        pixel_ids=ids,
        rows=[_row(record, index) for record in records],
    )


def _read_tar(path: Path, pngs: dict[str, bytes], records: list[dict[str, Any]]) -> None:
    pending: dict[str, memoryview] = {}
    for name, body in tar_members(path.read_bytes()):
        key, _, suffix = name.partition(".")
        pending[suffix] = body
        if suffix != "tgt.png":  # the last of a sample, in name order
            continue
        record = json.loads(bytes(pending["json"]))
        assert record["pair_id"].startswith(key), "sample key and pair id disagree"
        wanted = [("tgt.png", record["target_id"])]
        wanted += [(f"ctx{i}.png", image) for i, image in enumerate(record["context_ids"])]
        for member, image in wanted:
            if image not in pngs:
                pngs[image] = bytes(pending[member])
        records.append(record)
        pending = {}


def _decode(ids: Sequence[str], pngs: Mapping[str, bytes]) -> Pixels:
    if not ids:
        return np.zeros((0, 0, 0, 3), np.uint8)
    first = decode_png(pngs[ids[0]])
    images: Pixels = np.empty((len(ids), *first.shape), np.uint8)
    for row, name in enumerate(ids):
        rgb = decode_png(pngs[name])
        if rgb.shape != first.shape:
            raise ArtifactError(f"image {name[:12]} is {rgb.shape}, others are {first.shape}")
        if pixel_id(rgb) != name:
            raise ArtifactError(f"image {name[:12]} is damaged: its pixels do not match its id")
        images[row] = rgb
    return images


def _row(record: Mapping[str, Any], index: Mapping[str, int]) -> PairRow:
    return PairRow(
        pair_id=record["pair_id"],
        relation_class=record["relation_class"],
        relation=record["relation"],
        instruction=record["instruction"],
        instruction_short=record["instruction_short"],
        instruction_inverse=record["instruction_inverse"],
        target_caption=record["target_caption"],
        context_caption=record["context_caption"],
        params=record["params"],
        source=record["source"],
        license_spdx=record["license_spdx"],
        split=record["split"],
        contexts=tuple(index[context] for context in record["context_ids"]),
        target=index[record["target_id"]],
    )
