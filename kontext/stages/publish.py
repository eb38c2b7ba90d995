"""Stage publish: weights in a folder the editor loads, model card, dataset card, lineage.

Figures:
    parameters: {} parameters
    model_digest: model {}
"""

import json
from collections import Counter
from pathlib import Path

import torch

from kontext.data.buckets import Buckets
from kontext.data.shards.write import tar_members
from kontext.edit.weights.folder import ModelSettings, save_model_folder
from kontext.engine.stage import Stage, StageContext
from kontext.errors import WorseError
from kontext.evaluate.exclusion.record import exclusion_line
from kontext.evaluate.models import model_ledger, model_settings
from kontext.evaluate.report.model_card import DataFacts, ModelFacts, dataset_card, model_card
from kontext.evaluate.report.provenance import notes
from kontext.evaluate.report.safety_card import gate_facts
from kontext.evaluate.run_lineage import RunLineage, run_lineage
from kontext.models.autoencoder.network import Autoencoder, load_autoencoder
from kontext.models.flux.transformer import FluxTransformer, load_transformer
from kontext.models.text.cache import later_text_encoder
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact
from kontext.train.record.ledger import without_arithmetic
from kontext.train.record.numerics import LEDGER, check_against
from kontext.train.start.teacher import load_teacher, model_stage
from kontext.train.start.text import given_text
from schemas.sections.data import IngestConfig
from schemas.sections.evaluation import EvaluateConfig, PublishConfig

STAGE = Stage(
    name="publish",
    section="publish",
    inputs=(
        "ingest",
        "shard",
        "index",
        "train-autoencoder",
        "encode",
        "finetune",
        "exclude",
        "distill",
        "evaluate",
    ),
    weights=("text",),
    tag="model@{publish.name}",
    summary="weights, model card, dataset card, lineage",
)


def run(ctx: StageContext[PublishConfig]) -> None:
    """Write the model folders, the cards and the lineage.

    Raises:
        WeightsError: a weights file does not fit its configuration.
        NumericsError: the student was trained with other numerics than it would be published with.
        WorseError: the model is worse than the tagged one beyond the margin (`evaluate.margin`).
    """
    config = ctx.config
    versions = _let_through(ctx)
    cpu = torch.device("cpu")
    autoencoder = load_autoencoder(ctx.inputs["train-autoencoder"], cpu)
    student = teacher = load_teacher(ctx.inputs, cpu)
    if "distill" in ctx.inputs:
        student = load_transformer(ctx.inputs["distill"], "student.safetensors", cpu)
    scored = ctx.upstream("evaluate", EvaluateConfig)
    ingested = ctx.upstream("ingest", IngestConfig)
    settings, slow = model_settings(ctx, scored, later_text_encoder(given_text(ctx)).digest)
    settings = settings.model_copy(update={"name": config.name})
    slow = slow.model_copy(update={"name": f"{config.name}-teacher"})
    sizes = Buckets.of(ingested).sizes
    ledger = without_arithmetic(model_ledger(ctx, student, autoencoder, settings, sizes))
    last = model_stage(ctx.inputs)
    check_against(ctx, "publish", ledger, last, arithmetic=False)
    ctx.output.add_json(LEDGER, ledger)
    digest = _folder(ctx, "model", student, autoencoder, settings)
    if student is not teacher:
        _folder(ctx, "teacher", teacher, autoencoder, slow)
    trail = run_lineage({n: r.manifest for n, r in ctx.inputs.items()}, STAGES)
    data = _data_facts(ctx)
    canaries, hash_lists = gate_facts(ctx.inputs["ingest"])
    facts = ModelFacts(
        name=config.name,
        digest=digest,
        parameters=sum(p.numel() for p in student.parameters()),
        codec_parameters=sum(p.numel() for p in autoencoder.parameters()),
        made_for=settings.made_for,
        student_steps=settings.steps,
        teacher_steps=slow.steps,
        text_encoder=f"{_text_encoder(settings)} {settings.text_digest}",
        recipe=ctx.inputs[last].manifest.recipe,
        distilled=student is not teacher,
        started_from=_started_from(ctx.inputs["finetune"]),
        canaries=canaries,
        hash_lists=hash_lists,
        exclusion=exclusion_line(ctx.inputs),
        versions=versions,
    )
    _cards(ctx, facts, data, trail)
    ctx.output.add_json("lineage.json", trail.as_json())
    ctx.output.add_bytes("lineage.mmd", trail.mermaid().encode())
    ctx.output.metric("model_digest", digest)
    ctx.output.metric("parameters", facts.parameters)


def _let_through(ctx: StageContext[PublishConfig]) -> str:
    """What evaluate found beside the tagged model, in one line; empty of an older evaluation.

    Raises WorseError where that forbids it, unless the recipe says otherwise.
    """
    evaluated = ctx.inputs["evaluate"]
    if "versions.json" not in evaluated.names():
        ctx.note("the evaluation is of an earlier version: not compared with the tagged model")
        return ""
    found = evaluated.json("versions.json")
    line: str = found["line"]
    if not found["fell"]:
        if doubt := found.get("doubt"):
            ctx.note(f"beside the published model: {doubt}")
        return line
    if not ctx.config.worse:
        raise WorseError(
            f"{ctx.config.name} would get worse: {line}; publish it all the same with "
            "--set publish.worse=true, or give it another name"
        )
    ctx.note(f"published as publish.worse says, although worse: {line}")
    return f"{line}; published all the same, as publish.worse says"


def _text_encoder(settings: ModelSettings) -> str:
    """What reads the texts, without the place where it lies here."""
    kind, _, place = settings.text_encoder.partition(":")
    return "T5 and CLIP of FLUX.1" if kind == "flux" and place else settings.text_encoder


def _started_from(finetuned: Artifact) -> str:
    """The given weights: an artifact, or a file's own name; empty where there were none."""
    said = str(finetuned.manifest.metrics.get("init", ""))
    return Path(said).name if said.startswith("/") else said


def _folder(
    ctx: StageContext,
    name: str,
    transformer: FluxTransformer,
    autoencoder: Autoencoder,
    settings: ModelSettings,
) -> str:
    folder = ctx.scratch / name
    digest = save_model_folder(folder, transformer, autoencoder, settings)
    for path in sorted(folder.iterdir()):
        ctx.output.add_file(f"{name}/{path.name}", path)
    return digest


def _cards(ctx: StageContext, model: ModelFacts, data: DataFacts, trail: RunLineage) -> None:
    evaluate = ctx.inputs["evaluate"]
    card = model_card(
        model, data, evaluate.json("scores.json"), evaluate.json("latency.json"), trail.digests
    )
    noted = [f"{stage}: {note}" for stage, note in notes(ctx.inputs)]
    counts = ctx.inputs["index"].json("index.json")["counts"]
    described = dataset_card(data, counts, noted)
    ctx.output.add_bytes("model/README.md", card.encode())
    ctx.output.add_bytes("dataset_card.md", described.encode())
    ctx.report.markdown("model-card", card.split("---\n", 2)[-1])
    ctx.report.markdown("dataset-card", described)


def _data_facts(ctx: StageContext) -> DataFacts:
    shard, index = ctx.inputs["shard"], ctx.inputs["index"].json("index.json")
    records = _records(shard)
    shards = shard.table("shards.parquet")
    components = shard.table("splits.parquet")["component_id"].to_pylist()
    return DataFacts(
        dataset=index["dataset"],
        version=index["version"],
        snapshot=index["snapshot_id"],
        pairs=Counter((record["relation_class"], record["split"]) for record in records),
        licences=Counter(record["license_spdx"] for record in records),
        sources=Counter(record["source"] for record in records),
        components=len(set(components)),
        shards=shards.num_rows,
        bytes=sum(shards["bytes"].to_pylist()),
    )


def _records(shard: Artifact) -> list[dict[str, str]]:
    """The JSON member of every sample."""
    return [
        json.loads(bytes(body))
        for tar in shard.names()
        if tar.endswith(".tar")
        for name, body in tar_members(shard.path(tar).read_bytes())
        if name.endswith(".json")
    ]
