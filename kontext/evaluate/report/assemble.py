"""Put the report together from scores, pictures and the input artifacts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kontext.engine.stage import Stage, StageContext
from kontext.evaluate.benches.held_out import Bench
from kontext.evaluate.metrics import METRICS
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.pixels import Images
from kontext.evaluate.references import EDITORS
from kontext.evaluate.report import cards, data_card, provenance, safety_card, training_card
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.builder import duration, figure
from kontext.evaluate.report.model import EditorRow, MetricTable, ReportData
from kontext.evaluate.score import Scores
from kontext.evaluate.statistics import Interval
from kontext.models.precision import bf16_supported
from kontext.train.flow.timesteps import shift_mu
from schemas.manifest import Manifest
from schemas.sections.data import IngestConfig
from schemas.sections.training import AutoencoderConfig, FinetuneConfig

_PICTURES = (
    ("finetune", "samples.png", "Teacher on validation pairs: context, edit, target"),
    ("distill", "samples.png", "Student on validation pairs: context, edit, target"),
)


@dataclass(frozen=True)
class Evaluation:
    """What the stage evaluate measured: the report is made from it."""

    bench: Bench
    scores: Scores
    outputs: Mapping[str, Images]
    latency: Mapping[str, Any]
    feature_digest: str


def report_data(
    ctx: StageContext,
    done: Evaluation,
    models: TrainedModels,
    assets: Assets,
    stages: Mapping[str, Stage],
) -> ReportData:
    """Collect the whole report. Pictures are written through `assets`.

    Args:
        stages: the stage graph, in execution order.
    """
    known = provenance.manifests(ctx.inputs)
    digests = {name: reader.digest for name, reader in ctx.inputs.items()}
    digests["evaluate"] = ctx.digest
    bench, scores = done.bench, done.scores
    return ReportData(
        title="A small Kontext, trained from scratch, edits images it has never seen",
        recipe=ctx.inputs["distill"].manifest.recipe,
        digest=ctx.digest,
        lead=_lead(done),
        facts=_facts(ctx, done, models, known),
        goals=scores.goals,
        editors=_editors(scores, bench),
        bench=bench_counts(bench),
        mask_threshold=bench.mask_threshold,
        teaser=cards.teaser(bench, scores, done.outputs, assets),
        edits=cards.category_edits(bench, scores, done.outputs, assets),
        reconstructions=training_card.reconstructions(bench, done.outputs, assets),
        autoencoder=scores.autoencoder,
        autoencoder_charts=training_card.autoencoder_charts(
            ctx.inputs["train-autoencoder"], ctx.upstream("train-autoencoder", AutoencoderConfig)
        ),
        training_charts=[
            *training_card.flow_charts(
                ctx.inputs["finetune"], ctx.upstream("finetune", FinetuneConfig)
            ),
            *training_card.distill_charts(ctx.inputs["distill"]),
        ],
        heat=training_card.level_map(ctx.inputs["finetune"]),
        pictures=_pictures(ctx, assets),
        samples=data_card.samples(ctx.inputs, assets),
        data_tables=data_card.tables(ctx.inputs),
        safety_facts=safety_card.facts(ctx.inputs, known, ctx.upstream("ingest", IngestConfig)),
        safety_tables=safety_card.tables(ctx.inputs),
        latency=latency_rows(done.latency),
        latency_facts=dict(done.latency),
        nodes=provenance.nodes(known, digests, stages),
        stages=provenance.stage_rows(known, digests, stages),
        metrics=metric_tables(scores, bench),
        notes=provenance.notes(known),
        numerics=provenance.numerics(ctx, known, _numbers(done, models)),
    )


def _lead(done: Evaluation) -> str:
    reached = sum(goal.reached for goal in done.scores.goals)
    names = [goal.title for goal in done.scores.goals if not goal.reached]
    missed = f" Not reached: {', '.join(names)}." if names else ""
    return (
        "One pipeline mined the pairs, trained the autoencoder, the flow transformer and its "
        f"{done.latency['student_steps']}-step student, and scored them on concepts held out of "
        f"training: {reached} of {len(done.scores.goals)} goals reached.{missed}"
    )


def _facts(
    ctx: StageContext, done: Evaluation, models: TrainedModels, known: Mapping[str, Manifest]
) -> list[tuple[str, str]]:
    splits = ctx.inputs["shard"].table("splits.parquet")["split"].to_pylist()
    weights = sum(p.numel() for p in models.student.model.transformer.parameters())
    seconds = sum(manifest.seconds for manifest in known.values())
    index = ctx.inputs["index"].json("index.json")
    side = done.bench.target.shape[1]
    return [
        (duration(seconds), f"from art to student, on {done.latency['device']}"),
        (f"{splits.count('train'):,}", "training pairs"),
        (f"{weights / 1e6:.1f} M", f"transformer parameters, {side} px"),
        (f"{figure(done.latency['student_ms'])} ms", "per edit, warm"),
        (f"{len(done.bench):,}", "held-out edits scored"),
        (f"{index['dataset']} v{index['version']}", "dataset version"),
    ]


def _editors(scores: Scores, bench: Bench) -> list[EditorRow]:
    return [_row(name, row, "success", bench) for name, row in scores.table.items()]


def _row(
    editor: str, by: Mapping[str, Mapping[str, Interval]], metric: str, bench: Bench
) -> EditorRow:
    measured = {c: by[c][metric] for c in bench.categories if metric in by[c]}
    return EditorRow(editor, EDITORS[editor].title, EDITORS[editor].what, measured)


def metric_tables(scores: Scores, bench: Bench) -> list[MetricTable]:
    """All metrics but success (the verdict shows it), each editor x category."""
    tables = []
    for name, metric in METRICS.items():
        if name == "success" or not any(name in measured for measured in scores.per_item.values()):
            continue
        rows = tuple(_row(editor, by, name, bench) for editor, by in scores.table.items())
        unfit = frozenset(row["category"] for row in scores.unfit if row["metric"] == name)
        tables.append(
            MetricTable(
                name, metric.title, metric.unit, metric.better, metric.definition, rows, unfit
            )
        )
    return tables


def bench_counts(bench: Bench) -> dict[str, dict[str, int]]:
    """Per category: items, available and excluded pairs."""
    return {
        name: {
            "n": len(bench.where(name)),
            "available": bench.available.get(name, 0),
            "excluded": bench.excluded.get(name, 0),
        }
        for name in bench.categories
    }


def latency_rows(latency: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parts with their share of a student edit in percent (0 for parts that are not in it)."""
    inside = {"text_encode", "context_encode", "student", "decode"}
    total = sum(part["median_ms"] for part in latency["parts"] if part["name"] in inside)
    return [
        {
            **part,
            "share": round(100 * part["median_ms"] / total, 1) if part["name"] in inside else 0,
        }
        for part in latency["parts"]
    ]


def _pictures(ctx: StageContext, assets: Assets) -> list[tuple[str, str]]:
    shown = []
    for stage, name, caption in _PICTURES:
        if name in ctx.inputs[stage].names():
            data = ctx.inputs[stage].path(name).read_bytes()
            shown.append((assets.add(f"assets/{stage}-{name}", data), caption))
    return shown


def _numbers(done: Evaluation, models: TrainedModels) -> dict[str, Any]:
    height, width = done.bench.target.shape[1:3]
    model = models.student.model
    factor = 2 * model.autoencoder.factor
    tokens = (height // factor) * (width // factor)
    bf16 = bf16_supported(models.device)
    return {
        "side": f"{width} × {height}",
        "target_tokens": tokens,
        "mu": shift_mu(tokens, model.transformer.shape.timestep_shift),
        "text_length": models.student.settings.text_length,
        "text_digest": models.text.digest,
        "scale": model.autoencoder.scale,
        "shift": model.autoencoder.shift,
        "feature_digest": done.feature_digest,
        "precision": "bf16 autocast" if bf16 else "float32 (no native bf16)",
    }
