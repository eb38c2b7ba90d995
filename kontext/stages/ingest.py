"""Stage ingest: sources in, images, pixels, rejects, and decisions of gate and classifiers out.

Figures:
    images_kept: {} images kept
    images_planned: {} images read
    images_rejected: {} images rejected
    entries_skipped: {} files and rows left out
    given_pairs: {} pairs that the sources bring
    edits_made: {} pairs made by known operations
    images_made: {} images made for them
    canaries_stopped: {} canaries stopped
    hash_lists: {} hash lists matched
    groups: {} groups of images
    pip_only_images: substitutes taken for missing sources: {}
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from kontext.data.forms import Crops
from kontext.data.ingest import (
    check_canaries,
    given_pairs,
    ingest_chunk,
    outcome_rows,
    plan_work,
    refused_pairs,
    skipped_rows,
)
from kontext.data.moments import FILE as MOMENTS_FILE
from kontext.data.moments import moments, sure
from kontext.data.outcomes import FILE, chunk_tables, item_keys, look_up, to_do, with_work
from kontext.data.scoring import FILE as SCORED_BY
from kontext.data.scoring import made_with
from kontext.data.sources.base import GivenPair
from kontext.data.sources.fallback import resolve
from kontext.data.words import prove_words
from kontext.engine.stage import Stage, StageContext
from kontext.errors import SourceError
from kontext.safety.policy import load_policy
from kontext.safety.proof import proved_gate
from schemas.sections.data import IngestConfig
from schemas.tables import EDITS

STAGE = Stage(
    name="ingest",
    section="ingest",
    plugins="kontext.data.scoring:modules_named",
    external="kontext.data.scoring:fingerprint",
    summary="decode and hash-gate every image of the sources",
)


def run(ctx: StageContext[IngestConfig]) -> None:
    """Decode, hash-gate and score every image of the sources; each keeps its shape.

    Raises:
        SourceError: a source is missing, or no image survived.
        RecipeError: there is no such policy.
        GateError: a hash list is unusable, or a classifier is not installed.
        CanaryError: a canary was not stopped, or a classifier does not work.
    """
    config = _resolved(ctx, ctx.config)
    plan = plan_work(config, ctx.home)
    gate = proved_gate(config, ctx.home)
    for note in gate.notes:
        ctx.note(note)
    ctx.output.metric("hash_lists", len(gate.lists) - 2)  # beside those of canaries
    ctx.log.info("%d images planned in %d chunks", plan.images, len(plan.chunks))
    items = [item for chunk in plan.chunks for item in chunk.items]
    policy = load_policy(config.policy)
    ctx.output.add_json(SCORED_BY, made_with(policy, Crops.of(config)))
    keys = item_keys(items, config, ctx.home)
    before = ctx.earlier()
    held = sure(look_up(items, keys, before), before)
    chunks = to_do(plan, held, config, ctx.home)
    ctx.log.info("%d images are as they were", len(items) - sum(len(c.items) for c in chunks))
    results = ctx.map_chunks(ingest_chunk, chunks, config.processes)
    done = with_work(held, results)
    outcomes = done.outcomes(keys)
    stopped = check_canaries(outcomes, config.canaries)

    images, rejects, decisions = [], [skipped_rows(plan.skipped, ctx.home)], []
    for number, chunk in enumerate(chunk_tables(plan, done, outcomes)):
        for name in ("images", "pixels"):
            ctx.output.add_table(f"{name}/{number:03d}.parquet", chunk[name])
        images.append(chunk["images"])
        rejects.append(chunk["rejects"])
        decisions.append(chunk["decisions"])
    all_images, all_rejects = pa.concat_tables(images), pa.concat_tables(rejects)
    if not all_images.num_rows:
        raise SourceError(f"no image of any source was accepted: {_reasons(all_rejects)}")
    ctx.output.add_table("rejects.parquet", all_rejects)
    made = _edits(ctx, results)
    ctx.output.add_table(FILE, outcomes)
    given = given_pairs([*plan.pairs, *made], outcomes)
    refused = refused_pairs(plan.pairs, ctx.home)
    prove_words()  # what judges them may have broken since
    ctx.output.add_table("given.parquet", given)
    ctx.output.add_table(MOMENTS_FILE, moments(results, items, held, before))
    decisions.append(refused)  # behind those that outcomes count
    ctx.output.add_table("decisions.parquet", pa.concat_tables(decisions))
    ctx.output.metric("entries_skipped", len(plan.skipped))
    ctx.output.metric("given_pairs", sum(status == "ok" for status in given["status"].to_pylist()))
    for status, count in sorted(Counter(given["status"].to_pylist()).items()):
        if status != "ok":
            ctx.note(f"{count:,} of {len(given):,} given pairs are lost: {status}")
    planned = {(i.source, i.ref) for chunk in plan.chunks for i in chunk.items} if made else None
    _report(ctx, plan.images, all_images, all_rejects, stopped, planned)


def _edits(
    ctx: StageContext[IngestConfig], results: Sequence[Mapping[str, pa.Table]]
) -> list[GivenPair]:
    """The pairs that the workers made by known operations, written with what is known of them."""
    if not ctx.config.edits.per_picture:
        return []
    table = pa.concat_tables([EDITS.empty_table(), *(result["edits"] for result in results)])
    ctx.output.add_table("edits.parquet", table)
    rows = table.to_pylist()
    ctx.output.metric("edits_made", len(rows))
    if not rows:
        ctx.note("no edit was made: every picture is drawn here, or part of a pair already")
    counts = Counter((row["category"], row["operation"]) for row in rows)
    ctx.report.table(
        "ingest-edits",
        [{"category": c, "operation": o, "pairs": n} for (c, o), n in sorted(counts.items())],
    )
    return [
        GivenPair(
            source=row["source"],
            row=row["row"],
            target=row["target"],
            contexts=(row["context"],),
            instruction=row["instruction"],
            kind=row["operation"],
        )
        for row in rows
    ]


def _reasons(rejects: pa.Table) -> str:
    """How many were rejected for what, the most frequent first."""
    counts = Counter(rejects["reason"].to_pylist()).most_common()
    return ", ".join(f"{count:,} {reason}" for reason, count in counts)


def _resolved(ctx: StageContext, config: IngestConfig) -> IngestConfig:
    """The section with the sources that are really read, which the artifact records."""
    sources, notes = resolve(config)
    for note in notes:
        ctx.note(note)
    used = [source.model_dump(mode="json") for source in sources]
    ctx.output.add_json("sources.json", {"sources": used, "substitutions": list(notes)})
    ctx.output.metric("pip_only_images", bool(notes))
    return config.model_copy(update={"sources": sources})


def _names(table: pa.Table) -> list[tuple[str, str]]:
    """(source, ref) of each row of IMAGES or REJECTS."""
    return list(zip(table["source"].to_pylist(), table["source_ref"].to_pylist(), strict=True))


def _report(
    ctx: StageContext,
    planned: int,
    images: pa.Table,
    rejects: pa.Table,
    stopped: int,
    refs: set[tuple[str, str]] | None,
) -> None:
    """Counts alone: pictures are shown once they were screened.

    `refs` are the planned pictures where others were made of them.
    """
    made = 0
    if refs is not None:
        mine = pa.array([row in refs for row in _names(images)], pa.bool_())
        made = images.num_rows - int(pc.sum(mine).as_py() or 0)
        images = images.filter(mine)
        # a made picture's own reject is no outcome of anything that was planned
        rejects = rejects.filter(pa.array(["#" not in r or (s, r) in refs for s, r in
                                           _names(rejects)], pa.bool_()))  # fmt: skip
        ctx.output.metric("images_made", made)
    table = outcome_rows(images, rejects)
    for row in table:
        if row["outcome"] != "kept":
            ctx.log.info("%(source)s: %(images)d dropped (%(outcome)s)", row)
    ctx.output.metric("images_planned", planned)
    ctx.output.metric("images_kept", images.num_rows)
    ctx.output.metric("images_rejected", planned - images.num_rows)
    ctx.output.metric("canaries_stopped", stopped)
    ctx.output.metric("groups", len(set(images["group_key"].to_pylist())))
    ctx.report.table("ingest-outcomes", table)
    ctx.report.markdown(
        "ingest-summary",
        f"**{images.num_rows:,}** of {planned:,} images kept, "
        f"{planned - images.num_rows:,} rejected with a reason, {made:,} made of them by edits. "
        f"Hash gate: {stopped} of {stopped} injected canaries stopped, nothing of them written.",
    )
