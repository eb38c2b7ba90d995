"""What an earlier screening holds of images, texts and pairs, so that only new ones are scored.

It counts only where it was made with the same models at the same sizes. All of it is made item by
item, so that what is taken is what would be made, byte for byte.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from kontext.models.features.clip import saved_towers
from kontext.store.artifacts.artifact_store import Artifact
from schemas.tables import IMAGE_SCORES, VECTORS

MADE_WITH = "made_with.json"
_AT_A_TIME = 4096  # vectors
IMAGE_VECTORS, TEXT_VECTORS = "image_vectors.parquet", "text_vectors.parquet"


@dataclass(frozen=True)
class Known:
    """Tables of an earlier screening; all empty where there is none."""

    image_scores: pa.Table = field(default_factory=IMAGE_SCORES.empty_table)
    images: pa.Table = field(default_factory=VECTORS.empty_table)
    texts: pa.Table = field(default_factory=VECTORS.empty_table)
    pairs: pa.Table | None = None
    towers: tuple[str, str] = ("", "")  # digests of what made the vectors of images and of texts

    def made_by(self, features: str, text: str) -> "Known":
        """This without the vectors that other towers than those of these digests have made."""
        empty = VECTORS.empty_table()
        images, texts = (
            held if made == asked else empty
            for held, made, asked in zip(
                (self.images, self.texts), self.towers, (features, text), strict=True
            )
        )
        return replace(self, images=images, texts=texts)


def known_of(artifacts: Sequence[Artifact], made_with: Mapping[str, object]) -> Known:
    """The newest of `artifacts` (newest first) that was made with the same as today."""
    for made in artifacts:
        if made_with_of(made) == made_with:
            return Known(
                made.table("image_scores.parquet"),
                made.table(IMAGE_VECTORS),
                made.table(TEXT_VECTORS),
                made.table("pair_scores.parquet"),
                saved_towers(made),
            )
    return Known()


def made_with_of(made: Artifact) -> object:
    """What a screening was made with; None where it does not say."""
    return made.json(MADE_WITH) if made.names(MADE_WITH) else None


def places(keys: Sequence[str] | pa.Array, known: pa.Table, column: str) -> NDArray[np.int64]:
    """The row of `known` that has each key, int64 [N]; -1 where none has."""
    there = known[column].combine_chunks()
    asked = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
    found = pc.index_in(asked, value_set=there).fill_null(-1)
    return np.asarray(found.to_numpy(), np.int64)


def vectors(
    keys: Sequence[str], known: pa.Table, make: Callable[[Sequence[str]], Tensor]
) -> Tensor:
    """Float32 [N, D], one for each key: as in `known`, or made of those that it lacks."""
    place = places(keys, known, "key")
    missing = np.flatnonzero(place < 0)
    made = make([keys[row] for row in missing.tolist()])
    if len(missing) == len(keys):
        return made
    rows = np.flatnonzero(place >= 0)
    found = torch.empty(len(keys), len(known["vector"][int(place[rows[0]])].as_py()) // 4)
    for low in range(0, len(rows), _AT_A_TIME):
        some = rows[low : low + _AT_A_TIME]
        joined = b"".join(known["vector"].take(pa.array(place[some])).to_pylist())
        held = torch.frombuffer(bytearray(joined), dtype=torch.float32)
        found[torch.from_numpy(some)] = held.view(len(some), -1)
    if len(missing):
        found[torch.from_numpy(missing)] = made.cpu()
    return found


@dataclass(frozen=True)
class Keyed:
    """Vectors by key: of `found` [N, D] the `rows`, in their order."""

    keys: Sequence[str]  # of all of `found`
    found: Tensor
    rows: NDArray[np.int64]

    def names(self) -> pa.Array:
        """The keys of the rows."""
        return pa.array([self.keys[row] for row in self.rows.tolist()], pa.string())

    def tables(self) -> Iterator[pa.Table]:
        """VECTORS, in parts: the table is as large as the vectors are."""
        for low in range(0, len(self.rows), _AT_A_TIME):
            some = self.rows[low : low + _AT_A_TIME]
            keys = [self.keys[row] for row in some.tolist()]
            values = self.found[torch.from_numpy(some)].float().cpu().numpy()
            columns = [pa.array(keys, pa.string()), [row.tobytes() for row in values]]
            yield pa.table(columns, schema=VECTORS)
