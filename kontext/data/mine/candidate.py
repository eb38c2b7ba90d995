"""The one output of every miner, and the view of an image that miners see."""

import hashlib
import json
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

GIVEN = "given"  # `miner` of pairs that a source brings
EDITS = "edits"  # `miner` of pairs that stage ingest made by known operations
WORDED = (GIVEN, EDITS)  # those that come with their instruction

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Moment:
    """When a picture of a series was taken: one row of MOMENTS without its picture."""

    kind: str  # frame or photograph
    series: str
    shot: int
    at: float  # seconds


@dataclass(frozen=True)
class MinedImage:
    """An ingested image as miners see it; its pixels are read when a miner asks for them."""

    pixel_id: str
    source: str
    group_key: str
    concept: str
    attributes: Mapping[str, str]
    license_spdx: str
    load: Callable[[str], NDArray[np.uint8]] = field(repr=False, compare=False)
    moment: Moment | None = None

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """Pixels at the size of training, uint8 [H, W, 3]."""
        return self.load(self.pixel_id)


@dataclass(frozen=True)
class Candidate:
    """A directed pair (x | y): what should change, between which images, and why we think so."""

    context_ids: tuple[str, ...]
    target_id: str
    relation_class: str
    relation: str
    miner: str
    miner_version: str
    params: Mapping[str, str | float]
    group_key: str
    source: str
    license_spdx: str

    @cached_property
    def pair_id(self) -> str:
        """SHA-256 over context ids, target id, relation and parameters."""
        text = json.dumps(
            [self.context_ids, self.target_id, self.relation, self.params_json],
            separators=(",", ":"),
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def params_json(self) -> str:
        """Parameters as canonical JSON."""
        return json.dumps(dict(self.params), sort_keys=True, separators=(",", ":"))


def rows_by(
    images: Sequence[MinedImage], key: Callable[[MinedImage], Key | None]
) -> dict[Key, Sequence[int]]:
    """Places in `images` of those with one key, in the order of their firsts; None is left out."""
    found: dict[Key, array[int]] = {}
    for row, image in enumerate(images):
        of = key(image)
        if of is not None:
            found.setdefault(of, array("q")).append(row)
    return dict(found)
