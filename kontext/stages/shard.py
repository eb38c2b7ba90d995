"""Stage shard: accepted pairs into deterministic tars, split by connected component.

It goes on from the dataset's earlier artifacts: their pictures keep their splits.

Figures:
    pairs_train: {} training pairs
    pairs_val: {} validation pairs
    pairs_test: {} test pairs
    pairs_dropped: {} pairs dropped
    components: {} groups that share no picture
    largest_component_images: {} images in the largest group
    near_duplicate_edges: {} near duplicates
    shards: {} shards
    shard_bytes: {size} of shards
"""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from kontext.data.buckets import Buckets
from kontext.data.images import ImageBank
from kontext.data.shards import dataset, select
from kontext.data.shards.divide import divide
from kontext.data.shards.select import Selected
from kontext.data.shards.write import ShardSet, write_shards
from kontext.data.split import SPLITS_IN_ORDER, Components
from kontext.engine.stage import Stage, StageContext
from kontext.store.artifacts.artifact_store import Artifact
from schemas.sections.data import IngestConfig, ShardConfig
from schemas.tables import RELATION_CLASSES

STAGE = Stage(
    name="shard",
    section="shard",
    inputs=("ingest", "mine", "caption", "screen"),
    continues="dataset",
    summary="write deterministic WebDataset tars, split by connected component",
)

_MADE_WITH = "made_with.json"  # what decides the pictures besides themselves and the code
_LARGE = 0.2  # share of all images above which one component is worth a warning


def run(ctx: StageContext[ShardConfig]) -> None:
    """Write train, val and test shards. Raises GateError where no pair was accepted."""
    config = ctx.config
    ingest = ctx.inputs["ingest"]
    buckets = Buckets.of(ctx.upstream("ingest", IngestConfig))
    # ingest's packages have written the pictures that keep their size
    made_with = {"sizes": repr(buckets), "packages": ingest.manifest.packages}
    bank = ImageBank(ingest, buckets)
    before = select.splits_before(ctx.before)
    divided = divide(ctx.inputs, config, bank.rgb, before)
    selected, found, splits = divided.selected, divided.components, divided.splits
    table = select.splits_table(selected, found, splits)
    earlier = [made for made in ctx.earlier() if _made_with(made) == made_with]
    shown = dataset.ShownPictures(bank, earlier)
    shards = _write(ctx, selected, table["split"], shown)
    shard_table, member_table = shards.tables()
    ctx.output.add_table("splits.parquet", table)
    ctx.output.add_table("picture_splits.parquet", select.picture_splits(found, splits, before))
    ctx.output.add_table("shards.parquet", shard_table)
    ctx.output.add_table("shard_members.parquet", member_table)
    ctx.output.add_json(_MADE_WITH, made_with)
    _report(ctx, selected, table["split"], found, shard_table)


def _made_with(made: Artifact) -> object:
    return made.json(_MADE_WITH) if made.names(_MADE_WITH) else None


def _write(
    ctx: StageContext[ShardConfig],
    selected: Selected,
    split_of: pa.ChunkedArray,
    shown: dataset.ShownPictures,
) -> ShardSet:
    shards, limit = ShardSet(), ctx.config.max_pairs_per_shard
    files = ctx.inputs["mine"].path("pairs.parquet"), ctx.inputs["caption"].path("captions.parquet")
    pairs = dataset.PairRows(*files)
    for number, split in enumerate(SPLITS_IN_ORDER):
        ctx.report.progress(number, len(SPLITS_IN_ORDER), f"writing {split} shards")
        own = selected.table.filter(pc.equal(split_of, split))
        samples = dataset.samples(pairs, own, split, shown)
        write_shards(samples, split, ctx.scratch, limit, shown.png, shards)
    for path in shards.paths:
        ctx.output.add_file(path.name, path)
        path.unlink()
    return shards


def _report(
    ctx: StageContext,
    selected: Selected,
    split_of: pa.ChunkedArray,
    found: Components,
    shards: pa.Table,
) -> None:
    named = pa.table({"split": split_of, "of": selected.table["relation_class"]})
    counted = named.group_by(["split", "of"]).aggregate([([], "count_all")]).to_pylist()
    counts = Counter({(row["split"], row["of"]): row["count_all"] for row in counted})
    for split in SPLITS_IN_ORDER:
        ctx.output.metric(f"pairs_{split}", sum(n for (s, _), n in counts.items() if s == split))
    ctx.output.metric("pairs_dropped", sum(selected.dropped.values()))
    for reason, count in sorted(selected.dropped.items()):
        ctx.output.metric(f"dropped/{reason}", count)
    ctx.output.metric("components", found.count)
    ctx.output.metric("largest_component_images", found.largest)
    ctx.output.metric("near_duplicate_edges", found.near_duplicates)
    ctx.output.metric("shards", shards.num_rows)
    ctx.output.metric("shard_bytes", sum(shards["bytes"].to_pylist()))
    share = found.largest / max(1, found.images)
    if share > _LARGE:
        ctx.note(f"the largest connected component holds {share:.0%} of all images")
    for name in sorted({of for _, of in counts}):
        if not counts["test", name]:
            ctx.note(f"no held-out '{name}' pairs: they are all in one component")
    rows = [
        {"split": split, **{name: counts[split, name] for name in RELATION_CLASSES}}
        for split in SPLITS_IN_ORDER
    ]
    ctx.report.table("shard-splits", rows)
    dropped = [{"reason": why, "pairs": n} for why, n in sorted(selected.dropped.items())]
    ctx.report.table("shard-dropped", dropped)
    ctx.report.markdown(
        "shard-summary",
        f"**{len(selected):,}** pairs in {shards.num_rows} shards, "
        f"{sum(selected.dropped.values()):,} dropped. {found.count:,} components; the largest "
        f"holds {found.largest:,} of {found.images:,} images ({share:.1%}). "
        f"{found.near_duplicates:,} near-duplicate edges between groups.",
    )
