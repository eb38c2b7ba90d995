"""Stage caption: an instruction, its inverse and captions for every mined pair.

Figures:
    captions_ok: {} captions written
    captions_failed: {} captions failed
    pictures_refused: {} pictures that no model is shown
    judged_ok: {} edits judged
    judge_follow: a judge says {} of 5 for following the instruction
    judge_shuffled_gap: and {} less with another pair's instruction
    distinct_instructions: {} different instructions
    requests: {} requests to a model
    tokens_in: {} tokens asked
    tokens_out: {} tokens answered
    cost_usd: {} USD at the recipe's prices
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kontext.data.caption import UNSENT, captioner_for, judge_for
from kontext.data.caption.base import (
    Caption,
    Captioner,
    CaptionRequest,
    Desk,
    RemoteCaptioner,
    failed,
)
from kontext.data.caption.given import caption_given
from kontext.data.caption.pairs import Facts, captions_table, requests_for
from kontext.data.chat.prompts import Status
from kontext.data.images import ImageBank
from kontext.data.judging import judged_texts
from kontext.engine.stage import Stage, StageContext
from kontext.errors import CanaryError, GateError
from kontext.safety.ids import Reason
from kontext.safety.judged_texts import FILE as TEXTS_FILE
from kontext.safety.judged_texts import JudgedTexts
from kontext.store.artifacts.artifact_store import Artifact
from kontext.store.objects import open_store
from kontext.store.parquet import read_parquet, write_parquet
from schemas.sections.data import CaptionConfig, IngestConfig
from schemas.tables import CAPTION_TEXTS, CAPTIONS, JUDGED_SCORES

STAGE = Stage(
    name="caption",
    section="caption",
    inputs=("ingest", "mine"),
    plugins="kontext.data.caption:modules_named",
    external="kontext.data.caption:external",
    summary="write instruction, inverse and captions from the true attributes",
)

_AT_A_TIME = 16_384  # pairs as objects
_SHOWN = 2  # samples per relation
_DIFFERENT = ("relation", "instruction_count_distinct")
_TROUBLES = 20  # reasons shown
_TELLS_APART = 0.5  # mean gap of a judge below which its scores say little
_FEW = 0.9  # share of pairs with a caption below which the note is loud


def run(ctx: StageContext[CaptionConfig]) -> None:
    """Caption all pairs; what cannot be captioned stays as a row with its status.

    Raises:
        RecipeError: a model is to be asked, and there is no address or name of it.
        KontextError: the model cannot be asked, or does not answer.
        GateError: there is no caption for any pair.
        CanaryError: texts that must be stopped are not.
    """
    judged = judged_texts(ctx.home, ctx.earlier())
    pairs, ingest = ctx.inputs["mine"].path("pairs.parquet"), ctx.inputs["ingest"]
    facts = Facts(ingest.table("images", Facts.COLUMNS))
    captioner, judge = captioner_for(ctx.config), judge_for(ctx.config)
    ctx.output.kernel("captioner", captioner.id)
    if judge is None and not isinstance(captioner, RemoteCaptioner):
        _keep(ctx, pairs, _at_home(captioner, pairs, facts, judged), judged)
        return
    requests = requests_for(read_parquet(pairs), facts)
    refused = _refused(ctx)
    pictures = _pictures(ingest, refused)
    desk = Desk(pictures, ctx.home, ctx.report.progress, ctx.stop, ctx.report.continued)
    captions, replies = _captions(captioner, requests, desk, refused)
    captions, unsaid = _without_refused_texts(requests, captions, judged)
    _keep(ctx, pairs, [captions_table(captions)], judged)
    if judge is not None:
        verdicts = judge.judge_all(requests, captions, desk)
        ctx.output.add_table("judgements.parquet", verdicts.judgements)
        replies.append(verdicts.replies)
        _report_judge(ctx, verdicts.judgements)
    if replies:
        every = _without_bodies(pa.concat_tables(replies), unsaid)
        ctx.output.add_table("replies.parquet", every)
        _report_cost(ctx, every)


def _at_home(
    captioner: Captioner, pairs: Path, facts: Facts, judged: JudgedTexts
) -> Iterator[pa.Table]:
    """CAPTIONS of a captioner that sends nothing; only some pairs are objects at a time."""
    with pq.ParquetFile(pairs) as file:
        for batch in file.iter_batches(_AT_A_TIME):
            requests = requests_for(pa.Table.from_batches([batch]), facts)
            captions = [
                captioner.caption(request) if request.given is None else caption_given(request)
                for request in requests
            ]
            yield captions_table(_without_refused_texts(requests, captions, judged)[0])


def _keep(
    ctx: StageContext[CaptionConfig],
    pairs: Path,
    captions: Iterable[pa.Table],
    judged: JudgedTexts,
) -> None:
    """Add the captions, in the order of the pairs, and their texts, and report them."""
    path = ctx.scratch / "captions.parquet"
    try:
        write_parquet(path, CAPTIONS, captions)
        judged.prove()  # it may have broken since
    except GateError:
        path.unlink(missing_ok=True)
        raise
    ctx.output.add_file(path.name, path)
    said = read_parquet(path, ["instruction", "instruction_inverse", "status"])
    path.unlink()
    ctx.output.add_table(TEXTS_FILE, judged.table())
    _report(ctx, said.append_column("relation", read_parquet(pairs, ["relation"])["relation"]))


def _refused(ctx: StageContext[CaptionConfig]) -> frozenset[str]:
    """Pictures that no model is shown. What the others scored is kept for stage screen."""
    unsent = import_module(UNSENT)
    config = ctx.upstream("ingest", IngestConfig)
    ingest, objects = ctx.inputs["ingest"], open_store(ctx.store_url)
    found = unsent.unsent(
        ingest, config, ctx.config, ctx.map_chunks, ctx.earlier(),
        lambda by: unsent.own_scores(ingest, by, objects, ctx.home),
    )  # fmt: skip
    ctx.output.add_table(unsent.SCORES, found.scores)
    ctx.output.add_json(unsent.MADE_WITH, found.made_with)
    ctx.output.metric("pictures_refused", len(found.refused))
    refused: frozenset[str] = found.refused
    return refused


def _captions(
    captioner: Captioner | RemoteCaptioner,
    requests: Sequence[CaptionRequest],
    desk: Desk,
    refused: Collection[str],
) -> tuple[list[Caption], list[pa.Table]]:
    """A caption per request in order, and what a model replied; given texts stay as they are.

    A pair with a `refused` picture has none.
    """
    texts = {
        request.pair_id: failed(request, "picture_refused", captioner.id)
        for request in requests
        if any(image.pixel_id in refused for image in (*request.contexts, request.target))
    }
    unworded = [r for r in requests if r.given is None and r.pair_id not in texts]
    if isinstance(captioner, RemoteCaptioner):
        done = captioner.caption_all(unworded, desk)
        written, replies = done.captions, [done.replies]
    else:
        written, replies = [captioner.caption(request) for request in unworded], []
    texts |= {caption.pair_id: caption for caption in written}
    return [texts.get(request.pair_id) or caption_given(request) for request in requests], replies


def _without_refused_texts(
    requests: Sequence[CaptionRequest],
    captions: Sequence[Caption],
    judged: JudgedTexts,
) -> tuple[list[Caption], set[str]]:
    """The captions, none of which the rules on text refuse; and the pairs that lost theirs.

    What is refused is kept nowhere: not in this artifact, and so in no catalog and on no page.
    """
    found, unsaid = [], set()
    checked = judged(getattr(c, name) for c in captions for name in CAPTION_TEXTS)
    for request, caption in zip(requests, captions, strict=True):
        reasons = {checked[getattr(caption, name)] for name in CAPTION_TEXTS} - {None}
        if reasons:
            strict = Reason.TEXT_MINOR_SEXUAL
            reason = str(strict if strict in reasons else min(map(str, reasons)))
            caption = failed(request, cast(Status, reason), caption.captioner)
            unsaid.add(request.pair_id)
        found.append(caption)
    return found, unsaid


def _without_bodies(replies: pa.Table, pairs: Collection[str]) -> pa.Table:
    """REPLIES without what was replied about these pairs."""
    theirs = pc.is_in(replies["pair_id"], value_set=pa.array(sorted(pairs), pa.string()))
    place = replies.schema.get_field_index("reply")
    bodies = pc.if_else(theirs, "", replies["reply"])
    return replies.set_column(place, replies.schema.field(place), bodies)


def _pictures(ingest: Artifact, refused: Collection[str]) -> Callable[[str], bytes]:
    """PNG of a pixel id. Opened when first asked for, and by one thread at a time."""
    lock, opened = Lock(), list[ImageBank]()

    def picture(pixel_id: str) -> bytes:
        if pixel_id in refused:
            raise CanaryError("a picture that the policy refuses was about to be sent")
        with lock:
            if not opened:
                opened.append(ImageBank(ingest))
            return opened[0].png(pixel_id)

    return picture


def _report_judge(ctx: StageContext[CaptionConfig], judgements: pa.Table) -> None:
    """Mean scores, and a note where a judge cannot be believed or has not answered."""
    statuses = Counter(judgements["status"].to_pylist())
    ctx.output.metric("judged_ok", statuses["ok"])
    for status, count in sorted(statuses.items()):
        if status != "ok":
            ctx.note(f"{count} of {judgements.num_rows} edits are not judged ({status})")
    if not statuses["ok"]:
        return
    means = {name: pc.mean(judgements[name]).as_py() for name in JUDGED_SCORES}
    for name, mean in means.items():
        ctx.output.metric(f"judge_{name}", round(mean, 3))
    for name, control in (("shuffled_gap", "wrong"), ("swapped_gap", "reversed")):
        if means[name] < _TELLS_APART:
            ctx.note(
                f"THE JUDGE HARDLY TELLS RIGHT INSTRUCTIONS FROM {control.upper()} ONES (by "
                f"{means[name]:.2f} of 4 points): do not believe its scores"
            )


def _report_cost(ctx: StageContext[CaptionConfig], replies: pa.Table) -> None:
    ctx.output.metric("requests", replies.num_rows)
    for name in ("tokens_in", "tokens_out", "cost_usd"):
        ctx.output.metric(name, round(pc.sum(replies[name]).as_py() or 0, 6))
    troubles = Counter(
        (row["kind"], row["status"], row["problem"])
        for row in replies.select(["kind", "status", "problem"]).to_pylist()
        if row["status"] != "ok"
    )
    rows = [
        {"asked for": kind, "status": status, "why": why, "requests": count}
        for (kind, status, why), count in troubles.most_common(_TROUBLES)
    ]
    ctx.report.table("caption-troubles", rows)


def _report(ctx: StageContext[CaptionConfig], said: pa.Table) -> None:
    """Counts and samples of the pairs' relation, instructions and status."""
    named = said.group_by(["relation", "status"]).aggregate([([], "count_all")]).to_pylist()
    counts = Counter({(row["relation"], row["status"]): row["count_all"] for row in named})
    statuses: Counter[str] = Counter()
    for (_, status), count in counts.items():
        statuses[status] += count
    ctx.output.metric("captions_ok", statuses["ok"])
    ctx.output.metric("captions_failed", len(said) - statuses["ok"])
    written = said.filter(pc.equal(said["status"], "ok"))
    ctx.output.metric("distinct_instructions", pc.count_distinct(written["instruction"]).as_py())
    _say_what_is_missing(ctx, statuses)
    different = said.group_by("relation").aggregate([("instruction", "count_distinct")])
    sentences = dict(zip(*(different[name].to_pylist() for name in _DIFFERENT), strict=True))
    table = [
        {"relation": r, "status": s, "pairs": n, "distinct instructions": sentences[r]}
        for (r, s), n in sorted(counts.items())
    ]
    ctx.report.table("caption-counts", table)
    lines = ["| relation | instruction | inverse |", "|---|---|---|"]
    lines += sorted(
        f"| {relation} | {row['instruction']} | {row['instruction_inverse']} |"
        for (relation, status) in counts
        if status == "ok"
        for row in written.filter(pc.equal(written["relation"], relation))[:_SHOWN].to_pylist()
    )
    ctx.report.markdown("caption-samples", "\n".join(lines))


def _say_what_is_missing(ctx: StageContext[CaptionConfig], statuses: Counter[str]) -> None:
    """Note what has no caption and why. Raises GateError where nothing has one."""
    total, missing = statuses.total(), {s: n for s, n in sorted(statuses.items()) if s != "ok"}
    said = ", ".join(f"{count:,} {status}" for status, count in missing.items())
    if total and not statuses["ok"]:
        raise GateError(f"none of {total:,} pairs has a caption: {said}{_advice(missing)}")
    if missing and statuses["ok"] < _FEW * total:
        share = statuses["ok"] / total
        ctx.note(f"ONLY {share:.0%} OF THE PAIRS HAVE A CAPTION ({said}): training gets no others")
    for status, count in missing.items():
        advice = _advice({status: count})
        ctx.note(f"{count} of {total} pairs have no caption ({status}){advice}")


def _advice(missing: Mapping[str, int]) -> str:
    """What to do about pairs that nobody could ask about; empty where there is nothing to do."""
    if "unanswered" in missing:
        return "; `kontext run --only caption --force` asks for the unanswered ones again"
    if "budget" in missing:
        return "; a larger caption.budget_tokens or budget_requests asks for the rest"
    return ""
