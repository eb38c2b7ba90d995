"""Captioning a table of pairs: requests from PAIRS and IMAGES, rows for CAPTIONS."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from kontext.data.caption.base import Caption, CaptionRequest, ImageFacts
from kontext.data.mine.candidate import WORDED
from schemas.tables import CAPTIONS


def requests_for(pairs: pa.Table, images: pa.Table) -> list[CaptionRequest]:
    """One request per row of `pairs`."""
    facts = {
        row["pixel_id"]: ImageFacts(
            row["concept"], json.loads(row["attributes"] or "{}"), row["source"], row["pixel_id"]
        )
        for row in images.select(["pixel_id", "concept", "attributes", "source"]).to_pylist()
    }
    return [
        CaptionRequest(
            pair_id=row["pair_id"],
            relation_class=row["relation_class"],
            relation=row["relation"],
            params=row["params"],
            target=facts[row["target_id"]],
            contexts=tuple(facts[pixel_id] for pixel_id in row["context_ids"]),
            **_given(row),
        )
        for row in pairs.to_pylist()
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
