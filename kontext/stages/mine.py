"""Stage mine: ingested images in, balanced directed pairs out.

Figures:
    pairs_*: {} * pairs
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kontext.data.buckets import Buckets
from kontext.data.images import ImageBank
from kontext.data.layouts import drawings
from kontext.data.mine import miner
from kontext.data.mine.given import Counts, given_candidates, with_edits
from kontext.data.mine.images import COLUMNS, ImageRows
from kontext.data.mine.proposals import Proposals
from kontext.data.mine.select import Selection, select
from kontext.engine.stage import Stage, StageContext
from kontext.errors import GateError
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.parquet import write_parquet
from schemas.sections.data import IngestConfig, MineConfig
from schemas.tables import CATEGORIES, PAIRS

STAGE = Stage(
    name="mine",
    section="mine",
    inputs=("ingest",),
    plugins="kontext.data.mine:modules_named",
    summary="propose directed pairs (x | y, c) in five categories",
)


def run(ctx: StageContext[MineConfig]) -> None:
    """Propose with every miner of the recipe, select, and add the pairs that sources bring.

    Raises:
        GateError: no edit is found, and more than text-to-image was asked for.
    """
    config, ingest = ctx.config, ctx.inputs["ingest"]
    bank = ImageBank(ingest, Buckets.of(ctx.upstream("ingest", IngestConfig)))
    columns = ingest.table("images", COLUMNS)
    images = ImageRows(columns, ingest.table("moments.parquet"), bank.rgb)
    proposals = Proposals(ctx.scratch, config.seed)
    for name in config.miners:
        proposals.add(miner(name)(images, config))
    proposed = len(proposals)
    lost = _add_given(ingest, images, proposals)
    selection = select(proposals, config)
    counts = selection.counts + lost
    kept = ctx.scratch / "pairs.parquet"
    edits = _write(selection, kept)
    _check(ctx, len(selection), edits, config)
    ctx.output.add_file(kept.name, kept)
    kept.unlink()
    rows = [
        {"relation_class": key[0], "relation": key[1], "outcome": key[2], "pairs": n}
        for key, n in sorted(counts.items())
    ]
    proposed += selection.given
    ctx.output.add_json("counts.json", {"proposed": proposed, "outcomes": rows})
    ctx.report.table("mine-counts", rows)
    _report(ctx, counts, proposed)


def _add_given(ingest: Artifact, images: ImageRows, proposals: Proposals) -> Counts:
    """Add the pairs that sources bring; what became of the others."""
    lost: Counts = Counter()
    made = ingest.names("edits.parquet")  # where the recipe asks for them
    edits = ingest.table(made[0]) if made else None
    rows = with_edits(ingest.table("given.parquet"), edits)
    proposals.add(given_candidates(rows, images.of, lost), given=True)
    return lost


def _write(selection: Selection, path: Path) -> int:
    """Write what is kept; how many of it are edits."""
    edits = 0

    def counted() -> Iterator[pa.Table]:
        nonlocal edits
        for table in selection.tables():
            edits += pc.sum(pc.greater(pc.list_value_length(table["context_ids"]), 0)).as_py() or 0
            yield table

    write_parquet(path, PAIRS, counted())
    return edits


def _check(ctx: StageContext, kept: int, edits: int, config: MineConfig) -> None:
    """An editor cannot be trained without edits: better said here than hours later."""
    if edits:
        return
    if kept and set(config.miners) == {"singles"}:
        ctx.note("no edits: only text-to-image pairs were asked for")
        return
    raise GateError(
        "no edit could be mined: no source brings pairs, no two images of a group differ in "
        "exactly one label (files named like house__season=summer.png), and no two frames of a "
        "shot or photographs of a burst are alike but for something that has moved. Run it again "
        "with --set ingest.edits.per_picture=4 to have edits made of every picture by known "
        "operations (blur, recolor, write text and others). Pairs of one's own: "
        f"`kontext source inspect PATH` says what a folder is. Layouts of pairs:\n\n{drawings()}"
    )


def _report(ctx: StageContext, counts: Counts, proposed: int) -> None:
    by_category: Counter[str] = Counter()
    for (category, _, outcome), number in counts.items():
        by_category[category] += number * (outcome == "kept")
    for name in (*CATEGORIES, "t2i"):
        ctx.output.metric(f"pairs_{name}", by_category[name])
    for name in CATEGORIES:
        if not by_category[name]:
            ctx.note(f"no '{name}' pairs could be mined from these sources")
    ctx.report.markdown(
        "mine-summary",
        f"**{by_category.total():,}** pairs kept of {proposed:,} proposed: "
        + ", ".join(f"{by_category[name]:,} {name}" for name in (*CATEGORIES, "t2i")),
    )
