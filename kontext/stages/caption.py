"""Stage caption: an instruction, its inverse and captions for every mined pair."""

from collections import Counter

import pyarrow as pa

from kontext.data.caption import captioner_for
from kontext.data.caption.pairs import (
    CaptionChunk,
    caption_chunk,
    captions_table,
    requests_for,
)
from kontext.data.images import ImageBank
from kontext.engine.stage import Stage, StageContext
from schemas.sections.data import CaptionConfig

STAGE = Stage(
    name="caption",
    section="caption",
    inputs=("ingest", "mine"),
    plugins="kontext.data.caption:modules_named",
    summary="write instruction, inverse and captions from the true attributes",
)

_SHOWN = 2  # samples per relation


def run(ctx: StageContext) -> None:
    """Caption all pairs; what cannot be captioned stays as a row with its status.

    Raises:
        RecipeError: the chat captioner has no address.
        KontextError: the chat captioner does not answer.
    """
    config = ctx.config
    assert isinstance(config, CaptionConfig)
    pairs, ingest = ctx.inputs["mine"].table("pairs.parquet"), ctx.inputs["ingest"]
    captioner = captioner_for(config)
    if captioner.remote:
        table = _by_chunks(ctx, config, pairs)
    else:
        requests = requests_for(pairs, ingest.table("images"))
        table = captions_table([captioner.caption(request) for request in requests])
    ctx.output.add_table("captions.parquet", table)
    ctx.output.kernel("captioner", captioner.id)
    _report(ctx, pairs, table)


def _by_chunks(ctx: StageContext, config: CaptionConfig, pairs: pa.Table) -> pa.Table:
    """Ask a model, resumably: a stored chunk is not asked for again."""
    ingest = ctx.inputs["ingest"]
    requests = requests_for(pairs, ingest.table("images"), ImageBank(ingest).png)
    size = config.chunk_size
    chunks = [
        CaptionChunk(tuple(requests[start : start + size]), config)
        for start in range(0, len(requests), size)
    ]
    results = ctx.map_chunks(caption_chunk, chunks, 1)
    return pa.concat_tables([captions_table([]), *(result["captions"] for result in results)])


def _report(ctx: StageContext, pairs: pa.Table, captions: pa.Table) -> None:
    relations: list[str] = pairs["relation"].to_pylist()
    rows = captions.select(["instruction", "instruction_inverse", "status"]).to_pylist()
    counts = Counter(
        (relation, row["status"]) for relation, row in zip(relations, rows, strict=True)
    )
    statuses = Counter(row["status"] for row in rows)
    sentences: dict[str, set[str]] = {relation: set() for relation in relations}
    for relation, row in zip(relations, rows, strict=True):
        sentences[relation].add(row["instruction"])
    ctx.output.metric("captions_ok", statuses["ok"])
    ctx.output.metric("captions_failed", len(rows) - statuses["ok"])
    ctx.output.metric("distinct_instructions", len({row["instruction"] for row in rows}))
    for status, count in sorted(statuses.items()):
        if status != "ok":
            ctx.note(f"{count} of {len(rows)} pairs have no caption ({status})")
    ctx.report.table(
        "caption-counts",
        [
            {
                "relation": relation,
                "status": status,
                "pairs": count,
                "distinct instructions": len(sentences[relation]),
            }
            for (relation, status), count in sorted(counts.items())
        ],
    )
    lines = ["| relation | instruction | inverse |", "|---|---|---|"]
    shown: Counter[str] = Counter()
    for relation, row in zip(relations, rows, strict=True):
        if row["status"] == "ok" and shown[relation] < _SHOWN:
            shown[relation] += 1
            lines.append(f"| {relation} | {row['instruction']} | {row['instruction_inverse']} |")
    ctx.report.markdown("caption-samples", "\n".join([*lines[:2], *sorted(lines[2:])]))
