"""Stage evaluate: held-out edits, compared with reference editors; scores, intervals, report.

Figures:
    goals_reached: {} goals reached
    local: {%} of local edits succeed
    global: {%} of global edits succeed
    character: {%} of character edits succeed
    style: {%} of style edits succeed
    text: {%} of text edits succeed
    recolouring: {%} of recolourings succeed
    removal: {%} of removals succeed
    text_read: OCR reads {%} of text edits rightly
    outside: outside a local edit the picture changes {} times as much as by encoding alone
    autoencoder: the autoencoder's PSNR is {} dB
    success_measure: success by {}
    teacher/*: {%} of the teacher's * edits succeed
    versions: beside the tagged model {}
    context: the context is {}
    blame: most of the student's error is of {}
    copies: copies of training targets among the student's edits: {}
"""

import io
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from kontext.data.buckets import Buckets
from kontext.data.pixels import encode_png
from kontext.data.shards.read import PairSet, load_split
from kontext.data.shards.write import KEY_LENGTH
from kontext.engine.stage import Stage, StageContext
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.diagnosis.diagnose import Diagnosis, diagnose
from kontext.evaluate.diagnosis.finding import rows_of
from kontext.evaluate.drift.result import Drift, measure_drift
from kontext.evaluate.drift.scripts import make_scripts
from kontext.evaluate.false_editors import FALSE_EDITORS, TrainingEdits
from kontext.evaluate.latency import measure_edit
from kontext.evaluate.metrics.reading import MIN_READ, load_reader, targets_read
from kontext.evaluate.metrics.success import MEASURE
from kontext.evaluate.models import TrainedModels, model_ledger
from kontext.evaluate.pixels import Images
from kontext.evaluate.references import EDITORS, run_editors
from kontext.evaluate.report.assemble import report_data
from kontext.evaluate.report.assets import Assets, contact_sheet
from kontext.evaluate.report.builder import publish_copy, render
from kontext.evaluate.report.charts import drawable
from kontext.evaluate.report.model import Evaluation
from kontext.evaluate.report.verdict import goal_rows, unfit_line, verdict_markdown
from kontext.evaluate.score import (
    SUCCESS_GOALS,
    Place,
    Scores,
    autoencoder_scores,
    items_table,
    score,
    scores_json,
)
from kontext.evaluate.scoring import pooled_features, prepare
from kontext.evaluate.steps import qualities
from kontext.evaluate.truths import truths_line
from kontext.evaluate.versions import Versions, compare
from kontext.evaluate.wordings import in_training
from kontext.models.features.clip import load_scorer
from kontext.models.features.efficientnet import FeatureNet, load_features
from kontext.models.text.encoders import SMALL, load_text_encoder
from kontext.stages import STAGES
from kontext.train.record.numerics import LEDGER, check_against
from kontext.train.start.teacher import model_stage
from schemas.sections.data import IngestConfig
from schemas.sections.evaluation import EvaluateConfig

STAGE = Stage(
    name="evaluate",
    section="evaluate",
    plugins="kontext.evaluate.metrics:modules_named",
    compares="publish",
    inputs=(
        "ingest",
        "mine",
        "caption",
        "screen",
        "shard",
        "index",
        "train-autoencoder",
        "encode",
        "finetune",
        "exclude",
        "distill",
    ),
    weights=("text",),
    pool="gpu",
    summary="held-out edits beside reference editors, and the report",
)

_GRID_ROWS = 8
_MODELS = ("teacher", "student")
_HEADS = ["context", *_MODELS, "target"]


@dataclass(frozen=True)
class _Edited:
    """The bench, who edited it, and what every editor made of it."""

    bench: Bench
    models: TrainedModels
    train: PairSet
    training: TrainingEdits
    outputs: Mapping[str, Images]


def run(ctx: StageContext[EvaluateConfig]) -> None:
    """Score every editor and write scores, grids and the report.

    Raises:
        ArtifactError: the test split holds no edit.
        WeightsError: a weights file does not fit its configuration.
        NumericsError: the student was trained with other numerics than it is scored with.
    """
    edited = _edited(ctx)
    scores, features = _scores(ctx, edited)
    items = items_table(edited.bench, scores, _pictures(ctx, edited.bench, edited.outputs))
    done = _evaluation(ctx, edited, scores, items, features)
    _write(ctx, done, items)
    _grids(ctx, edited.bench, edited.outputs)
    ctx.log.info("writing the report")
    _summarise(ctx, done, _report(ctx, done, edited.models))


def _edited(ctx: StageContext[EvaluateConfig]) -> _Edited:
    """Every editor's edits of the held-out items."""
    config = ctx.config
    bench = Bench.from_shards(ctx.inputs["shard"], config)
    for category in bench.excluded:
        ctx.log.info("%d %s pairs have nothing to change", bench.excluded[category], category)
    models = TrainedModels.load(ctx, config)
    model, settings = models.student.model, models.student.settings
    sizes = Buckets.of(ctx.upstream("ingest", IngestConfig)).sizes
    ledger = model_ledger(ctx, model.transformer, model.autoencoder, settings, sizes)
    check_against(
        ctx, "evaluate", ledger, model_stage(ctx.inputs), arithmetic=config.same_arithmetic
    )
    ctx.output.add_json(LEDGER, ledger)
    train = load_split(ctx.inputs["shard"], "train")
    training = TrainingEdits.of(bench, train)
    return _Edited(bench, models, train, training, _edit(ctx, config, bench, models, training))


def _scores(ctx: StageContext[EvaluateConfig], edited: _Edited) -> tuple[Scores, FeatureNet]:
    """Of all editors, and the network that they were compared with."""
    bench, models = edited.bench, edited.models
    ctx.log.info("scoring %d items of %d editors", len(bench), len(edited.outputs))
    device = models.student.device
    features = load_features(device=device)
    # the screen's scorer reads texts with MiniLM, whatever the model reads them with
    text = models.student.text
    read = models.student.settings.text_encoder == SMALL
    small = text if read else load_text_encoder(device=device)
    clip = load_scorer(ctx.inputs["screen"], features, small, device)
    held_out = autoencoder_scores(
        bench.held_out, models.round_trip(bench.held_out), bench.held_out_clusters
    )
    scores = score(bench, prepare(bench, edited.outputs, features, clip, device), held_out)
    _note_reading(ctx, bench)
    return scores, features


def _evaluation(
    ctx: StageContext[EvaluateConfig],
    edited: _Edited,
    scores: Scores,
    items: pa.Table,
    features: FeatureNet,
) -> Evaluation:
    """The scores with all that says where they come from."""
    bench, models, outputs = edited.bench, edited.models, edited.outputs
    versions = _versions(ctx, items)
    ctx.log.info("diagnosis: where the scores come from")
    diagnosis = _diagnosis(ctx, edited, scores)
    ctx.log.info("steps against quality, and latency")
    codecs = outputs["codec"], outputs["codec_target"]
    tried = qualities(bench, rows_of(bench, ctx.config.step_items), models, *codecs)
    latency = measure_edit(models, bench, ctx.home)
    return Evaluation(
        bench=bench,
        scores=scores,
        outputs=outputs,
        latency=latency,
        feature_digest=features.digest,
        versions=versions,
        wordings=in_training(bench.items, (row.instruction for row in edited.train.rows)),
        diagnosis=diagnosis,
        qualities=tried,
        drift=_drift(ctx, models, features),
    )


def _write(ctx: StageContext[EvaluateConfig], done: Evaluation, items: pa.Table) -> None:
    """All that was measured, as files."""
    bench, drift = done.bench, done.drift
    ctx.output.add_table("items.parquet", items)
    scores = scores_json(bench, done.scores, ctx.config)
    ctx.output.add_json("scores.json", {**scores, "wordings": asdict(done.wordings)})
    ctx.output.add_json("versions.json", done.versions.as_dict())
    ctx.output.add_json("latency.json", dict(done.latency))
    ctx.output.add_json("steps.json", [each.as_dict() for each in done.qualities])
    ctx.output.add_json("diagnosis.json", done.diagnosis.as_dict(bench))
    ctx.output.add_json("drift.json", drift.as_dict())
    if drift.measured:
        ctx.output.add_table("drift.parquet", drift.table())


def _note_reading(ctx: StageContext, bench: Bench) -> None:
    """Say why text edits were not read, where they were not."""
    if load_reader() is None:
        ctx.note("rapidocr is not installed: text edits are not read by OCR")
    elif (known := targets_read(bench)) < MIN_READ:
        ctx.note(f"OCR reads {known:.0%} of the true targets: text edits are not read by it")


def _edit(
    ctx: StageContext,
    config: EvaluateConfig,
    bench: Bench,
    models: TrainedModels,
    training: TrainingEdits,
) -> dict[str, Images]:
    done, total = 0, 7 * len(bench)  # five edits and two round trips of each

    def progress(items: int) -> None:
        nonlocal done
        done += items
        ctx.report.progress(done, total, "editing held-out images")

    models.progress = progress
    outputs = run_editors(bench, models, training, config.seed)
    models.progress = None
    return outputs


def _diagnosis(ctx: StageContext[EvaluateConfig], edited: _Edited, scores: Scores) -> Diagnosis:
    """What the scores come from; pictures are looked for in training where their hashes are."""
    images = None
    if ctx.inputs["ingest"].names("images/"):
        images = ctx.inputs["ingest"].table("images", ["pixel_id", "pdq", "pdq_quality"])
    else:
        ctx.note("ingest's table of images is not here: test pictures are not sought in training")
    found = diagnose(
        edited.bench,
        edited.models,
        outputs=edited.outputs,
        success={name: found["success"].top for name, found in scores.per_item.items()},
        training=edited.training,
        train=edited.train,
        images=images,
        each=ctx.config.diagnosed,
    )
    for line in found.lines:
        ctx.log.info("%s", line)
    return found


def _pictures(
    ctx: StageContext, bench: Bench, outputs: Mapping[str, Images]
) -> dict[str, list[Place]]:
    """Store what the models made of each item as edits.tar; where each picture lies in it."""
    path = ctx.scratch / "edits.tar"
    found: dict[str, list[Place]] = {name: [] for name in _MODELS}
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, item in enumerate(bench.items):
            for name in _MODELS:
                png = encode_png(outputs[name][number])
                file = tarfile.TarInfo(f"{item.pair_id[:KEY_LENGTH]}.{name}.png")
                file.size = len(png)
                place = {"offset_bytes": tar.offset + tarfile.BLOCKSIZE, "length_bytes": len(png)}
                found[name].append({"picture": file.name, **place})
                tar.addfile(file, io.BytesIO(png))
    ctx.output.add_file("edits.tar", path)
    return found


def _drift(ctx: StageContext[EvaluateConfig], models: TrainedModels, net: FeatureNet) -> Drift:
    """Edits in several turns on pictures of the test split."""
    config, shards = ctx.config, ctx.inputs["shard"]
    table = shards.table("splits.parquet").select(["pair_id", "component_id"]).to_pylist()
    component = {row["pair_id"]: row["component_id"] for row in table}
    pairs = load_split(shards, "test")
    scripts = make_scripts(
        pairs, component, config.drift_scripts, config.seed, config.mask_threshold
    )
    if config.drift_scripts and scripts.why:
        ctx.note(f"scripts of several turns: {scripts.why}")
    if len(scripts):
        ctx.log.info("edits in several turns: %d scripts", len(scripts))
    device = models.student.device
    drift = measure_drift(
        scripts, models, lambda images: pooled_features(net, images, device), config.mask_threshold
    )
    if drift.measured or not config.drift_scripts:  # else the note has said it
        ctx.log.info("%s", drift.line)
    return drift


def _grids(ctx: StageContext, bench: Bench, outputs: Mapping[str, Images]) -> None:
    for category in bench.categories:
        rows = [int(i) for i in bench.where(category)[:_GRID_ROWS]]
        columns = (bench.context, outputs["teacher"], outputs["student"], bench.target)
        pictures = [[column[i] for column in columns] for i in rows]
        sheet = contact_sheet(pictures, [bench.items[i].instruction for i in rows], _HEADS)
        ctx.output.add_bytes(f"grids/{category}.png", sheet)
        ctx.report.image(f"edits-{category}", sheet, f"held-out {category} edits, first items")


def _report(ctx: StageContext[EvaluateConfig], done: Evaluation, models: TrainedModels) -> Path:
    """Write the report folder, store it, and copy it where people look for it."""
    folder = ctx.scratch / "report"
    shutil.rmtree(folder, ignore_errors=True)
    if not drawable():
        ctx.note("matplotlib is not installed: the report has no charts")
    render(report_data(ctx, done, models, Assets(folder), STAGES), folder)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        ctx.output.add_file(f"report/{path.relative_to(folder).as_posix()}", path)
    return publish_copy(folder, ctx.home, ctx.digest)


def _versions(ctx: StageContext[EvaluateConfig], items: pa.Table) -> Versions:
    """This model beside the tagged one of its name, on the items that both were scored on."""
    if not ctx.before:
        return Versions(why="no published model of this name has an evaluation here", first=True)
    (earlier,) = ctx.before
    threshold = ctx.config.mask_threshold  # success is of the pixels that it names
    if earlier.manifest.config.get("mask_threshold", threshold) != threshold:
        return Versions(why="the published model was scored with another evaluate.mask_threshold")
    if earlier.manifest.metrics.get("success_measure") != MEASURE:
        return Versions(why="the published model was scored by another measure of success")
    return compare(earlier.table("items.parquet"), items, ctx.config.margin)


def _summarise(ctx: StageContext, done: Evaluation, page: Path) -> None:
    scores = done.scores
    for goal in scores.goals:
        value = goal.measured.value
        ctx.output.metric(goal.name, None if value != value else round(value, 4))
    for category in sorted(set(scores.table["student"]) - set(SUCCESS_GOALS)):
        rate = scores.table["student"][category]["success"].value
        ctx.output.metric(category, round(rate, 4))
    ctx.output.metric("success_measure", MEASURE)
    ctx.output.metric("goals_reached", len(scores.of_verdict("reached")))
    ctx.output.metric("goals_not_measured", len(scores.of_verdict("not measured")))
    for category, row in scores.table["teacher"].items():
        ctx.output.metric(f"teacher/{category}", round(row["success"].value, 4))
    ctx.log.info("%s", unfit_line(scores.unfit))
    ctx.log.info("%s", truths_line(scores.truths))
    ctx.log.info("%s", done.wordings.line)
    if done.wordings.reworded_known:
        ctx.note(f"words that training was to know nothing of stand in it: {done.wordings.line}")
    ctx.output.metric("versions", done.versions.line)
    for name, said in done.diagnosis.verdicts.items():
        ctx.output.metric(name, said)
    ctx.report.table("goals", goal_rows(scores))
    rows = [
        {"editor": EDITORS[name].title}
        | {c: round(100 * i["success"].value, 1) for c, i in row.items()}
        for name, row in scores.table.items()
        if name not in FALSE_EDITORS
    ]
    ctx.report.table("success", rows)
    ctx.report.markdown("verdict", verdict_markdown(scores, done.versions, page))
    ctx.log.info("%s; report: %s", scores.summary, page)
