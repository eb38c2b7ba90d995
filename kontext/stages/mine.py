"""Stage mine: ingested images in, balanced directed pairs out.

Figures:
    pairs_*: {} * pairs
"""

import json
from collections import defaultdict

import pyarrow as pa

from kontext.data.buckets import Buckets
from kontext.data.images import ImageBank
from kontext.data.layouts import drawings
from kontext.data.mine import miner
from kontext.data.mine.candidate import MinedImage, Moment
from kontext.data.mine.given import given_candidates
from kontext.data.mine.select import Selection, select
from kontext.engine.stage import Stage, StageContext
from kontext.errors import GateError
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
    config = ctx.config
    bank = ImageBank(ctx.inputs["ingest"], Buckets.of(ctx.upstream("ingest", IngestConfig)))
    ingest = ctx.inputs["ingest"]
    images = _images(ingest.table("images"), ingest.table("moments.parquet"), bank)
    proposed = [c for name in config.miners for c in miner(name)(images, config)]
    made = ingest.names("edits.parquet")  # where the recipe asks for them
    edits = ingest.table(made[0]).to_pylist() if made else []
    given, outcomes = given_candidates(
        ingest.table("given.parquet").to_pylist(), {i.pixel_id: i for i in images}, edits
    )
    mined = select(proposed, config)
    kept = sorted([*mined.kept, *given], key=lambda c: c.pair_id)
    selection = Selection(kept, mined.counts + outcomes)
    _check(ctx, selection, config)
    ctx.output.add_table("pairs.parquet", _table(selection))
    rows = [
        {"relation_class": key[0], "relation": key[1], "outcome": key[2], "pairs": n}
        for key, n in sorted(selection.counts.items())
        if n
    ]
    ctx.output.add_json("counts.json", {"proposed": len(proposed) + len(given), "outcomes": rows})
    ctx.report.table("mine-counts", rows)
    _report(ctx, selection, len(proposed) + len(given))


def _check(ctx: StageContext, selection: Selection, config: MineConfig) -> None:
    """An editor cannot be trained without edits: better said here than hours later."""
    if any(candidate.context_ids for candidate in selection.kept):
        return
    if selection.kept and set(config.miners) == {"singles"}:
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


def _images(table: pa.Table, moments: pa.Table, bank: ImageBank) -> list[MinedImage]:
    moment_of = {
        row["pixel_id"]: Moment(row["kind"], row["series"], row["shot"], row["at_s"])
        for row in moments.to_pylist()
    }
    return [
        MinedImage(
            pixel_id=row["pixel_id"],
            source=row["source"],
            group_key=row["group_key"],
            concept=row["concept"],
            attributes=json.loads(row["attributes"]),
            license_spdx=row["license_spdx"],
            load=bank.rgb,
            moment=moment_of.get(row["pixel_id"]),
        )
        for row in sorted(table.to_pylist(), key=lambda row: str(row["pixel_id"]))
    ]


def _table(selection: Selection) -> pa.Table:
    rows = [
        {name: getattr(c, name) for name in PAIRS.names} | {"params": c.params_json}
        for c in selection.kept
    ]
    return pa.Table.from_pylist(rows, PAIRS)


def _report(ctx: StageContext, selection: Selection, proposed: int) -> None:
    by_category = defaultdict(list)
    for candidate in selection.kept:
        by_category[candidate.relation_class].append(candidate)
    for name in (*CATEGORIES, "t2i"):
        ctx.output.metric(f"pairs_{name}", len(by_category[name]))
    for name in CATEGORIES:
        if not by_category[name]:
            ctx.note(f"no '{name}' pairs could be mined from these sources")
    ctx.report.markdown(
        "mine-summary",
        f"**{len(selection.kept):,}** pairs kept of {proposed:,} proposed: "
        + ", ".join(f"{len(by_category[name]):,} {name}" for name in (*CATEGORIES, "t2i")),
    )
