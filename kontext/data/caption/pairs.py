"""Captioning a table of pairs: requests from PAIRS and IMAGES, rows for CAPTIONS."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from kontext.data.caption import captioner_for
from kontext.data.caption.base import Caption, CaptionRequest, ImageFacts
from kontext.data.mine.candidate import GIVEN
from schemas.sections.data import CaptionConfig
from schemas.tables import CAPTIONS


def requests_for(
    pairs: pa.Table, images: pa.Table, png: Callable[[str], bytes] | None = None
) -> list[CaptionRequest]:
    """One request per row of `pairs`; with `png`, the pictures go along."""
    facts = {
        row["pixel_id"]: ImageFacts(
            row["concept"], json.loads(row["attributes"] or "{}"), row["source"]
        )
        for row in images.select(["pixel_id", "concept", "attributes", "source"]).to_pylist()
    }

    def known(pixel_id: str) -> ImageFacts:
        found = facts[pixel_id]
        return found if png is None else dataclasses.replace(found, png=png(pixel_id))

    return [
        CaptionRequest(
            pair_id=row["pair_id"],
            relation_class=row["relation_class"],
            relation=row["relation"],
            params=row["params"],
            target=known(row["target_id"]),
            contexts=tuple(known(pixel_id) for pixel_id in row["context_ids"]),
            **_given(row),
        )
        for row in pairs.to_pylist()
    ]


def _given(row: Mapping[str, Any]) -> dict[str, str]:
    """The texts that a given pair brings, byte for byte."""
    if row["miner"] != GIVEN:
        return {}
    params = json.loads(row["params"])
    return {"given": params["instruction"], "given_caption": params.get("target_caption", "")}


def captions_table(captions: Sequence[Caption]) -> pa.Table:
    """CAPTIONS rows, in the order given."""
    return pa.Table.from_pylist([vars(caption) for caption in captions], CAPTIONS)


@dataclass(frozen=True)
class CaptionChunk:
    """A chunk of requests for a captioner that is worth storing piece by piece."""

    requests: tuple[CaptionRequest, ...]
    config: CaptionConfig


def caption_chunk(chunk: CaptionChunk) -> Mapping[str, pa.Table]:
    """Caption one chunk with `config.parallel` requests in flight."""
    captioner = captioner_for(chunk.config)
    with ThreadPoolExecutor(chunk.config.parallel) as pool:
        captions = list(pool.map(captioner.caption, chunk.requests))
    return {"captions": captions_table(captions)}
