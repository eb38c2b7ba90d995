"""Captioning a table of pairs: requests from PAIRS and IMAGES, rows for CAPTIONS."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kontext.data.caption.base import Caption, CaptionRequest, ImageFacts
from kontext.data.mine.candidate import WORDED
from schemas.tables import CAPTIONS


class Facts:
    """What is known about the images of an ingest artifact, in words, by pixel id.

    Args:
        images: an IMAGES table, at least `COLUMNS` of it.
    """

    COLUMNS = ("pixel_id", "concept", "attributes", "source")

    def __init__(self, images: pa.Table) -> None:
        self._images = images.select(self.COLUMNS)
        self._ids = images["pixel_id"].combine_chunks()

    def of(self, names: Iterable[str]) -> dict[str, ImageFacts]:
        """The facts of some images. Raises KeyError for an unknown one."""
        asked = pa.array(sorted(set(names)), pa.string())
        rows = pc.index_in(asked, value_set=self._ids)
        if rows.null_count:
            raise KeyError(asked.filter(pc.is_null(rows))[0].as_py())
        return {
            row["pixel_id"]: ImageFacts(
                row["concept"],
                json.loads(row["attributes"] or "{}"),
                row["source"],
                row["pixel_id"],
            )
            for row in self._images.take(rows).to_pylist()
        }


def requests_for(pairs: pa.Table, facts: Facts) -> list[CaptionRequest]:
    """One request per row of `pairs`."""
    rows = pairs.to_pylist()
    known = facts.of(name for row in rows for name in (*row["context_ids"], row["target_id"]))
    return [
        CaptionRequest(
            pair_id=row["pair_id"],
            relation_class=row["relation_class"],
            relation=row["relation"],
            params=row["params"],
            target=known[row["target_id"]],
            contexts=tuple(known[pixel_id] for pixel_id in row["context_ids"]),
            **_given(row),
        )
        for row in rows
    ]


def _given(row: Mapping[str, Any]) -> dict[str, str]:
    """The texts that a given pair brings, byte for byte."""
    if row["miner"] not in WORDED:
        return {}
    params = json.loads(row["params"])
    return {
        "given": params["instruction"],
        "given_caption": params.get("target_caption", ""),
        "given_inverse": params.get("inverse", ""),
    }


def captions_table(captions: Sequence[Caption]) -> pa.Table:
    """CAPTIONS rows, in the order given."""
    return pa.Table.from_pylist([vars(caption) for caption in captions], CAPTIONS)
