"""Put the report together from scores, pictures and the input artifacts."""

from collections.abc import Mapping
from typing import Any

from kontext.engine.graph import of_run
from kontext.engine.stage import Stage, StageContext
from kontext.evaluate.diagnosis.relations import NOTHING
from kontext.evaluate.metrics import METRICS
from kontext.evaluate.models import TrainedModels
from kontext.evaluate.references import EDITORS
from kontext.evaluate.report import (
    cards,
    data_card,
    diagnosis_card,
    items_page,
    provenance,
    safety_card,
    training_card,
)
from kontext.evaluate.report.assets import Assets
from kontext.evaluate.report.builder import duration, figure
from kontext.evaluate.report.drift_card import drift_card
from kontext.evaluate.report.lineage import Node
from kontext.evaluate.report.model import Evaluation
from kontext.evaluate.report.verdict import headline, versions_table
from kontext.evaluate.truths import best_false, truths_line
from kontext.train.start.teacher import model_stage
from schemas.sections.evaluation import EvaluateConfig
from schemas.sections.training import AutoencoderConfig, FinetuneConfig

_REFERENCES = ("student_reworded", "teacher_short", "codec_target")  # beside the models
_PICTURES = (
    ("finetune", "samples.png", "Teacher on validation pairs: context, edit, target"),
    ("distill", "samples.png", "Student on validation pairs: context, edit, target"),
)


def report_data(
    ctx: StageContext[EvaluateConfig],
    done: Evaluation,
    models: TrainedModels,
    assets: Assets,
    stages: Mapping[str, Stage],
) -> dict[str, Any]:
    """Collect what `report.html` shows, by its names. Pictures are written through `assets`.

    Args:
        stages: the stage graph, in execution order.
    """
    inputs, scores = ctx.inputs, done.scores
    known = {name: reader.manifest for name, reader in inputs.items()}
    digests = {name: reader.digest for name, reader in inputs.items()} | {"evaluate": ctx.digest}
    measured = {name for by_metric in scores.per_item.values() for name in by_metric}
    pages = items_page.item_pages(done, assets, ctx.config.seed, ctx.digest)
    return {
        "item_pages": pages,
        "item_links": items_page.links(pages, done.bench.items),
        "title": headline(scores),
        "recipe": inputs[model_stage(inputs)].manifest.recipe,
        "digest": ctx.digest,
        "distilled": "distill" in inputs,
        "lead": _lead(done, "distill" in inputs),
        "facts": _facts(ctx, done, models),
        "scores": scores,
        "goals": {goal.name: goal for goal in scores.goals},
        "bench": done.bench,
        "editors": EDITORS,
        "references": [name for name in scores.table if name in _REFERENCES],
        "best_false": {name: best_false(scores.table, name) for name in done.bench.categories},
        "truths_line": truths_line(scores.truths),
        "done": done,
        "versions": versions_table(done.versions),
        "metrics": [m for m in METRICS.values() if m.name in measured - {"success"}],
        "edits": cards.category_edits(done, assets),
        "drift": drift_card(done.drift, assets),
        "reconstructions": training_card.reconstructions(done, assets),
        **_training(ctx),
        "pictures": _pictures(ctx, assets),
        "samples": data_card.samples(inputs, assets),
        "data_tables": data_card.tables(inputs),
        "data_page": data_card.page(ctx, assets),
        "safety_facts": safety_card.facts(inputs),
        "safety_tables": safety_card.tables(inputs),
        **_diagnosis(done, assets),
        "latency": latency_rows(done.latency),
        "latency_facts": done.latency,
        "nodes": [
            Node(stage, digests.get(name, ""), known.get(name))
            for name, stage in of_run(stages, known).items()
        ],
        "notes": provenance.notes(inputs),
        "numerics": provenance.numerics(ctx, done, models),
    }


def _training(ctx: StageContext) -> dict[str, Any]:
    inputs = ctx.inputs
    autoencoder = ctx.upstream("train-autoencoder", AutoencoderConfig)
    flow = ctx.upstream("finetune", FinetuneConfig)
    return {
        "autoencoder_charts": training_card.autoencoder_charts(
            inputs["train-autoencoder"], autoencoder
        ),
        "training_charts": [
            *training_card.flow_charts(inputs["finetune"], flow),
            *(training_card.distill_charts(inputs["distill"]) if "distill" in inputs else ()),
        ],
        "heat": training_card.level_map(inputs["finetune"]),
    }


def _diagnosis(done: Evaluation, assets: Assets) -> dict[str, Any]:
    pareto, steps = diagnosis_card.pareto(done)
    return {
        "diagnosis": done.diagnosis,
        "nothing": NOTHING,
        "diagnosis_tables": diagnosis_card.tables(done),
        "diagnosis_cards": diagnosis_card.cards(done, assets),
        "pareto": pareto,
        "steps": steps,
    }


def _lead(done: Evaluation, distilled: bool) -> str:
    student = f" and its {done.latency['student_steps']}-step student" if distilled else ""
    missed = [goal.title for goal in done.scores.of_verdict("not reached")]
    named = f" Not reached: {', '.join(missed)}." if missed else ""
    return (
        f"One pipeline mined the pairs, trained the autoencoder, the flow transformer{student}, "
        f"and scored them on concepts held out of training: {done.scores.summary}.{named}"
    )


def _facts(ctx: StageContext, done: Evaluation, models: TrainedModels) -> list[tuple[str, str]]:
    splits = ctx.inputs["shard"].table("splits.parquet")["split"].to_pylist()
    weights = sum(p.numel() for p in models.student.model.transformer.parameters())
    seconds = sum(reader.manifest.seconds for reader in ctx.inputs.values())
    index = ctx.inputs["index"].json("index.json")
    sizes = done.bench.sizes
    size = f"{sizes[0][1]} px" if len(sizes) == 1 else f"{len(sizes)} sizes of pictures"
    return [
        (duration(seconds), f"from art to student, on {done.latency['device']}"),
        (f"{splits.count('train'):,}", "training pairs"),
        (f"{weights / 1e6:.1f} M", f"transformer parameters, {size}"),
        (f"{figure(done.latency['student_ms'])} ms", "per edit, warm"),
        (f"{len(done.bench):,}", "held-out edits scored"),
        (f"{index['dataset']} v{index['version']}", "dataset version"),
    ]


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
        if stage in ctx.inputs and name in ctx.inputs[stage].names():
            data = ctx.inputs[stage].path(name).read_bytes()
            shown.append((assets.add(f"assets/{stage}-{name}", data), caption))
    return shown
