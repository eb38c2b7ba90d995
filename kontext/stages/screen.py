"""Stage screen: raw safety and quality scores, decisions, and which pairs are accepted.

Figures:
    pairs_accepted: {} pairs accepted
    pairs_screened: {} pairs screened
    images_refused: {} images refused by the policy
    images_unmatchable: {} images too plain for the hash gate, under stricter limits
    pass_rate/*: {%} of the pairs pass the filter *
    drift/*: the filter * is {} standard errors from the last version
    clip_loss: loss {} of the scorer of texts and pictures
    clip_learnt: it has learnt from {} pictures
    clip_new: {%} of today's are new to it, and it is the last version's
"""

from collections import Counter
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from kontext.data.buckets import Buckets
from kontext.data.caption.unsent import SCORES, made_with
from kontext.data.contact_sheet import contact_sheet
from kontext.data.forms import Crops, sure_scores
from kontext.data.images import ImageBank
from kontext.data.judging import judged_texts
from kontext.data.quality import kept
from kontext.data.quality.health import (
    DRIFT,
    FILE,
    Health,
    allowed,
    compared,
    filters,
    health,
    require_steady,
)
from kontext.data.quality.known import (
    IMAGE_VECTORS,
    MADE_WITH,
    TEXT_VECTORS,
    Known,
    known_of,
    made_with_of,
)
from kontext.data.quality.proof import prove_rules
from kontext.data.quality.screen import ScreenedPairs, screen_pairs
from kontext.data.quality.sheets import sheets
from kontext.data.scoring import own_scores, scored_by
from kontext.engine.stage import Stage, StageContext
from kontext.safety import screening
from kontext.safety.classifiers import load_classifier
from kontext.safety.classifiers.base import prove
from kontext.safety.image_risk import image_risk
from kontext.safety.judged_texts import FILE as TEXTS_FILE
from kontext.safety.keys import run_key
from kontext.safety.policy import ImageRisk, Policy, classifiers_for, load_policy
from kontext.store.catalog.views import acceptance
from kontext.store.objects import open_store
from kontext.store.parquet import read_parquet, write_parquet
from schemas.risks import risks
from schemas.sections.data import IngestConfig, ScreenConfig
from schemas.tables import VECTORS

STAGE = Stage(
    name="screen",
    section="screen",
    inputs=("ingest", "mine", "caption"),
    continues="shard.dataset",
    plugins="kontext.safety.classifiers:modules_named",
    external="kontext.safety.policy:fingerprint",
    summary="score safety and quality; thresholds are SQL views",
)

_SHOWN = 12
_FEW = 64  # images that are scored sooner than processes have started
_HINTS = {"edit_cropped": ": no size in training (ingest.sizes) has the shape of their pictures"}


def run(ctx: StageContext[ScreenConfig]) -> None:
    """Score every image and pair, decide, and report what was dropped and why.

    Raises:
        RecipeError: unknown policy, or it needs a classifier that the recipe leaves out.
        GateError: a classifier is not installed, or a filter is inert.
        CanaryError: a classifier, a rule or a limit does not stop what it must.
    """
    config = ctx.config
    policy = load_policy(config.policy)
    versions = _proved(policy, classifiers_for(policy, config))  # fails before the work
    known = risks(config.classifiers)
    steady = _named(config)[1]
    for name in known:
        if name not in policy.risks:
            ctx.note(f"policy {policy.version}: {name} is not scored")
    ingest = ctx.inputs["ingest"]
    buckets = Buckets.of(ctx.upstream("ingest", IngestConfig))
    made_with = _made_with(versions, buckets)
    made, key = ctx.earlier(), run_key(ctx.home)
    earlier = known_of(made, made_with)
    texts = judged_texts(ctx.home, made, policy.texts.limit)
    crops = Crops(buckets)
    scores = _image_scores(ctx, policy, earlier, crops)
    bank = ImageBank(ingest, buckets)
    images = ingest.table("images")
    sure_scores(scores, images)
    risk = image_risk(scores, bank.ids, policy, known)
    unmatchable = screening.unmatchable(images, bank.ids)
    pairs = ctx.inputs["mine"].table("pairs.parquet")
    captions = ctx.inputs["caption"].table("captions.parquet")
    before = [one for one in ctx.before if made_with_of(one) == made_with]
    screened = screen_pairs(
        bank, images, pairs, captions, risk, unmatchable, policy, config, texts,
        ctx.report.progress, earlier, before,
    )  # fmt: skip
    texts.prove()  # it may have broken since
    judged = ctx.inputs["caption"].names("judgements.parquet")  # where the recipe asks for a judge
    judgements = ctx.inputs["caption"].table(judged[0]) if judged else None
    accepted = acceptance(pairs, captions, screened.scores, policy.thresholds, judgements)
    did = _did(config, policy, screened.scores, accepted)
    _compare(ctx, did, steady, bool(screened.trained.kept))
    decisions = [
        *screening.image_decisions(bank.ids, risk, unmatchable, policy, versions, key),
        *screening.pair_decisions(
            pairs["pair_id"].to_pylist(), screened.text, screened.pair, screened.rise, policy, key
        ),
    ]
    ctx.output.add_table("image_scores.parquet", scores)
    ctx.output.add_table("pair_scores.parquet", screened.scores)
    ctx.output.add_table("decisions.parquet", screening.decisions_table(decisions))
    ctx.output.add_table("accepted.parquet", accepted)
    ctx.output.add_table("refused.parquet", screened.refused_table(bank.ids))
    said = {**policy.model_dump(mode="json"), "digest": policy.digest}
    ctx.output.add_json("policy.json", said)
    ctx.output.add_table(TEXTS_FILE, texts.table())
    _keep(ctx, made_with, screened)
    _report(ctx, policy, unmatchable, screened, pairs, accepted)
    _show(ctx, bank, risk, images, pairs, _let_in(pairs, accepted))


def _proved(policy: Policy, names: Sequence[str]) -> dict[str, str]:
    """Version of each classifier, once it and the rules have shown that they work."""
    prove_rules(policy)
    loaded = {name: load_classifier(name) for name in names}
    for classifier in loaded.values():
        prove(classifier)
    return {name: classifier.version for name, classifier in loaded.items()}


def _keep(
    ctx: StageContext[ScreenConfig], made_with: Mapping[str, str], screened: ScreenedPairs
) -> None:
    """The scorer, and what the next screening need not make again."""
    trained = screened.trained
    ctx.output.add_json(MADE_WITH, made_with)
    ctx.output.add_table(kept.FILE, trained.learnt)
    ctx.output.metric(kept.COUNT, trained.learnt.num_rows)
    if trained.kept:
        ctx.output.metric("clip_new", round(trained.kept.new, 5))
        ctx.note(
            f"the small CLIP of {trained.kept.artifact} is kept: {trained.kept.new:.1%} of what it "
            f"would learn from is new to it (screen.clip_keep={ctx.config.clip_keep})"
        )
    for name, made in (
        (IMAGE_VECTORS, trained.image_vectors),
        (TEXT_VECTORS, trained.text_vectors),
    ):
        path = ctx.scratch / name
        write_parquet(path, VECTORS, made.tables())
        ctx.output.add_file(name, path)
        path.unlink()
    for path in trained.scorer.save(ctx.scratch):
        ctx.output.add_file(path.name, path)


def _made_with(versions: Mapping[str, str], buckets: Buckets) -> dict[str, str]:
    """All that decides the scores of an image, text or pair, besides itself and the code."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {**versions, "sizes": repr(buckets), "device": device}


def _image_scores(
    ctx: StageContext[ScreenConfig], policy: Policy, earlier: Known, crops: Crops
) -> pa.Table:
    """IMAGE_SCORES of all images; only those that nobody has scored are read.

    Ingest has scored what it kept, by the same policy. Of what an earlier kontext has ingested,
    stage caption has where pictures were sent to a model.
    """
    ingest, captions, classifiers = ctx.inputs["ingest"], ctx.inputs["caption"], policy.classifiers
    by = scored_by(policy, crops)
    if len(ours := own_scores(ingest, by, open_store(ctx.store_url), ctx.home)):
        earlier = replace(earlier, image_scores=ours)
    elif made_with(captions) == by:
        earlier = replace(earlier, image_scores=captions.table(SCORES))
    pixels = [ingest.stored(name) for name in ingest.names("pixels/")]
    known = screening.whole_scores(earlier.image_scores, classifiers)
    chunks = screening.plan_scores(pixels, classifiers, known, crops=crops)
    few = sum(map(len, chunks)) <= _FEW
    results = ctx.map_chunks(screening.score_chunk, chunks, 1 if few else ctx.config.processes)
    old = earlier.image_scores
    new = pa.concat_tables([old[:0], *(result["scores"] for result in results)])
    held = old.filter(pc.is_in(old["pixel_id"], value_set=pa.array(sorted(known), pa.string())))
    files = [read_parquet(one.path(), ["pixel_id"])["pixel_id"].to_pylist() for one in pixels]
    found = screening.in_order(pa.concat_tables([held, new]), files, classifiers)
    for scores in (found, new):
        screening.check_scores(scores)
    return found


def _named(config: ScreenConfig) -> tuple[set[str], set[str]]:
    """The filters that may let everything pass, and those that may drift. Raises RecipeError."""
    checked = filters(risks(config.classifiers))
    return (
        allowed(config.may_pass_all, checked, "may_pass_all"),
        allowed(config.may_drift, checked, "may_drift"),
    )


def _did(
    config: ScreenConfig, policy: Policy, scores: pa.Table, accepted: pa.Table
) -> dict[str, Health]:
    """What every filter did; it stops on one that is inert or rejects everything."""
    # verdicts are in the order of their ids
    reasons = accepted["reject_reasons"].take(_places(scores, accepted)).to_pylist()
    passing = _named(config)[0]
    return {
        one.name: health(one, scores, reasons, policy.thresholds, passing)
        for one in filters(risks(config.classifiers))
    }


def _compare(
    ctx: StageContext, did: Mapping[str, Health], may_drift: Collection[str], same_clip: bool
) -> None:
    """Record what every filter did, beside the last version; stop where one does otherwise."""
    last = max(ctx.before, key=lambda made: made.manifest.created_at, default=None)
    before = last.json(FILE) if last and last.names(FILE) else None
    found = compared(did, before, same_clip)
    for name, own in found.items():
        ctx.output.metric(f"pass_rate/{name}", own.rate)
        if own.drift is not None:
            ctx.output.metric(f"drift/{name}", own.drift)
        if own.limited and (own.drift or 0) > DRIFT:
            ctx.note(f"filter {name} has drifted by {own.drift} standard errors")
    idle = [name for name, own in found.items() if own.limited and own.rate == 1]
    ctx.log.info("filters that let every pair pass: %s", ", ".join(idle) or "none")
    said = {name: asdict(own) for name, own in found.items()}
    ctx.output.add_json(FILE, said)
    ctx.report.table("screen-filters", [{"filter": name, **row} for name, row in said.items()])
    if last is not None:
        require_steady(found, may_drift, f"{last.stage}/{last.digest}")


def _report(
    ctx: StageContext,
    policy: Policy,
    unmatchable: NDArray[np.bool_],
    screened: ScreenedPairs,
    pairs: pa.Table,
    accepted: pa.Table,
) -> None:
    total, let_in = accepted.num_rows, pc.sum(accepted["accept"]).as_py() or 0
    place, reasons = _places(accepted, pairs), accepted["reject_reasons"].combine_chunks()
    theirs = place.take(pc.list_parent_indices(reasons))
    named = pa.table(
        {"reason": reasons.flatten(), "relation_class": pairs["relation_class"].take(theirs)}
    )
    keys = list(named.column_names)
    counted = named.group_by(keys).aggregate([([], "count_all")])
    rows: list[dict[str, Any]] = [
        {key: row[key] for key in keys} | {"pairs": row["count_all"]}
        for row in counted.sort_by([(key, "ascending") for key in keys]).to_pylist()
    ]
    ctx.output.metrics |= {
        "pairs_screened": total,
        "pairs_accepted": let_in,
        "images_unmatchable": int(unmatchable.sum()),
        "images_refused": int(screened.refused.sum()),
        "policy": policy.id,
        "clip_loss": round(screened.trained.loss, 4),
        **{f"clip_{name}": round(v, 4) for name, v in screened.trained.metrics.items()},
    }
    _say_lost(ctx, named["reason"], total, let_in)
    ctx.report.table("screen-dropped", rows)
    ctx.report.markdown(
        "screen-summary",
        f"Policy **{policy.version}**: **{let_in:,}** of {total:,} pairs accepted; "
        f"{len(unmatchable):,} images scored by {', '.join(policy.classifiers)}, "
        f"{int(unmatchable.sum()):,} of them under the stricter limits of unmatchable images.",
    )


def _say_lost(ctx: StageContext, reasons: pa.ChunkedArray, total: int, let_in: int) -> None:
    """Log what was rejected for which reason; note a reason that took half of all pairs."""
    lost = Counter(reasons.to_pylist()).most_common()
    named = "; rejected: " + ", ".join(f"{why} {count:,}" for why, count in lost) if lost else ""
    ctx.log.info("%s of %s pairs accepted%s", f"{let_in:,}", f"{total:,}", named)
    for why, count in lost:
        if count * 2 > total:
            ctx.note(f"{count:,} of {total:,} pairs are rejected for {why}{_HINTS.get(why, '')}")


def _let_in(pairs: pa.Table, accepted: pa.Table) -> set[str]:
    """The images of accepted pairs."""
    let_in = pairs.take(_places(accepted, pairs).filter(accepted["accept"].combine_chunks()))
    named = (let_in["context_ids"].combine_chunks().flatten(), let_in["target_id"].combine_chunks())
    return {image for one in named for image in one.unique().to_pylist()}


def _places(accepted: pa.Table, pairs: pa.Table) -> pa.Array:
    """The row of PAIRS of every verdict."""
    ids = (table["pair_id"].combine_chunks() for table in (accepted, pairs))
    return pc.index_in(next(ids), value_set=next(ids))


def _show(
    ctx: StageContext,
    bank: ImageBank,
    risk: ImageRisk,
    images: pa.Table,
    pairs: pa.Table,
    let_in: Container[str],
) -> None:
    """Pictures of accepted pairs: no other is ever drawn."""
    _show_nearest(ctx, bank, risk, let_in)
    for sheet in sheets(bank, images, pairs, let_in):
        ctx.report.image(*sheet)


def _show_nearest(
    ctx: StageContext, bank: ImageBank, risk: ImageRisk, let_in: Container[str]
) -> None:
    """The accepted images with the highest scores: what the limits look like from below."""
    own = np.array([row for row, pixel_id in enumerate(bank.ids) if pixel_id in let_in], int)
    if not len(own):
        return
    rows, labels = [], []
    for name, values in risk.scores.items():
        top = own[np.argsort(-values[own], kind="stable")[:_SHOWN]]
        rows.append([bank.rgb(bank.ids[index]) for index in top])
        labels.append(f"{risks()[name].label} {values[top[-1]]:.2f} to {values[top[0]]:.2f}")
    sheet = contact_sheet(rows, row_labels=labels, cell=64)
    ctx.report.image("screen-highest", sheet, "images with the highest risk scores")
