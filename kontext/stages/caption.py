"""Stage caption: an instruction, its inverse and captions for every mined pair.

Figures:
    captions_ok: {} captions written
    captions_failed: {} captions failed
    distinct_instructions: {} different instructions
"""

from collections import Counter, defaultdict

import pyarrow as pa
import pyarrow.compute as pc

from kontext.data.caption import captioner_for
from kontext.data.caption.given import caption_given
from kontext.data.caption.pairs import CaptionChunk, caption_chunk, captions_table, requests_for
from kontext.data.images import ImageBank
from kontext.data.mine.candidate import GIVEN
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


def run(ctx: StageContext[CaptionConfig]) -> None:
    """Caption all pairs; what cannot be captioned stays as a row with its status.

    Raises:
        RecipeError: the chat captioner has no address.
        KontextError: the chat captioner does not answer.
    """
    config = ctx.config
    pairs, ingest = ctx.inputs["mine"].table("pairs.parquet"), ctx.inputs["ingest"]
    captioner = captioner_for(config)
    given = pc.equal(pairs["miner"], GIVEN)
    own, others = pairs.filter(given), pairs.filter(pc.invert(given))
    if captioner.remote:
        written = _by_chunks(ctx, config, others)
    else:
        requests = requests_for(others, ingest.table("images"))
        written = captions_table([captioner.caption(request) for request in requests])
    brought = [caption_given(request) for request in requests_for(own, ingest.table("images"))]
    table = _in_order(pa.concat_tables([written, captions_table(brought)]), pairs)
    ctx.output.add_table("captions.parquet", table)
    ctx.output.kernel("captioner", captioner.id)
    _report(ctx, pairs, table)


def _in_order(captions: pa.Table, pairs: pa.Table) -> pa.Table:
    """Captions in the order of their pairs."""
    return captions.take(pc.index_in(pairs["pair_id"], captions["pair_id"]))


def _by_chunks(ctx: StageContext, config: CaptionConfig, pairs: pa.Table) -> pa.Table:
    """Ask a model, resumably: a stored chunk is not asked for again."""
    ingest = ctx.inputs["ingest"]
    requests = requests_for(pairs, ingest.table("images"), ImageBank(ingest).png)
    size = config.chunk_size
    starts = range(0, len(requests), size)
    chunks = [CaptionChunk(tuple(requests[start : start + size]), config) for start in starts]
    results = ctx.map_chunks(caption_chunk, chunks, 1)
    return pa.concat_tables([captions_table([]), *(result["captions"] for result in results)])


def _report(ctx: StageContext, pairs: pa.Table, captions: pa.Table) -> None:
    rows = captions.select(["instruction", "instruction_inverse", "status"]).to_pylist()
    captioned = list(zip(pairs["relation"].to_pylist(), rows, strict=True))
    counts = Counter((relation, row["status"]) for relation, row in captioned)
    statuses = Counter(row["status"] for row in rows)
    sentences: dict[str, set[str]] = defaultdict(set)
    for relation, row in captioned:
        sentences[relation].add(row["instruction"])
    ctx.output.metric("captions_ok", statuses["ok"])
    ctx.output.metric("captions_failed", len(rows) - statuses["ok"])
    ctx.output.metric("distinct_instructions", len({row["instruction"] for row in rows}))
    for status, count in sorted(statuses.items()):
        if status != "ok":
            ctx.note(f"{count} of {len(rows)} pairs have no caption ({status})")
    table = [
        {"relation": r, "status": s, "pairs": n, "distinct instructions": len(sentences[r])}
        for (r, s), n in sorted(counts.items())
    ]
    ctx.report.table("caption-counts", table)
    lines = ["| relation | instruction | inverse |", "|---|---|---|"]
    shown: Counter[str] = Counter()
    for relation, row in captioned:
        if row["status"] == "ok" and shown[relation] < _SHOWN:
            shown[relation] += 1
            lines.append(f"| {relation} | {row['instruction']} | {row['instruction_inverse']} |")
    ctx.report.markdown("caption-samples", "\n".join([*lines[:2], *sorted(lines[2:])]))
