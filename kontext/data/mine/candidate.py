"""The one output of every miner, and the view of an image that miners see."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MinedImage:
    """An ingested image as miners see it. `rgb`: its pixels in training, uint8 [H, W, 3]."""

    pixel_id: str
    source: str
    group_key: str
    concept: str
    attributes: Mapping[str, str]
    license_spdx: str
    rgb: NDArray[np.uint8]


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


# From most to least restrictive; a pair takes the strictest licence of its images.
_STRICTNESS = ("LicenseRef-unknown", "CC-BY-SA-4.0", "CC-BY-4.0", "Apache-2.0", "MIT", "CC0-1.0")


def strictest_license(*licenses: str) -> str:
    """The most restrictive of the SPDX ids; ids we do not know count as unknown terms."""
    rank = {spdx: index for index, spdx in enumerate(_STRICTNESS)}
    return min(licenses, key=lambda spdx: (rank.get(spdx, -1), spdx))
