"""Stage distill: the teacher's guided edits, then LADD against them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kontext.data.latents import load_pairs
from kontext.models.batch import PairTensors
from kontext.models.precision import compute_dtype
from kontext.models.trained import load_transformer
from kontext.models.transformer import FluxTransformer
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.peaks import peak_flops
from kontext.plan import Machine, StagePlan, plan_student
from kontext.sample.edits import EditSampler, choose_edits, edit_sampler
from kontext.stage import Stage, StageContext
from kontext.stages.numerics import LEDGER, agree, codec_digest, encoded_lines, record
from kontext.stages.preview import preview_edits
from kontext.stages.ranks import checkpoints_of, train_on_ranks, train_student
from kontext.stages.teacher_edits import BANK, synthesise
from kontext.stages.training import (
    board_of,
    device_for,
    history_table,
    pair_tokens,
    report_incidents,
    report_measured,
    report_progress,
    report_speed,
    save_weights,
)
from kontext.train.clock import Clock
from kontext.train.distill import DistillMethod
from kontext.train.gates import check_training, run_gates, settings_digest, stop_at_failure
from kontext.train.ledger import Ledger, optimizer_ledger, transformer_ledger
from kontext.train.loop import Measure, fit
from kontext.train.work import ladd_work
from schemas.train_config import DistillConfig

STAGE = Stage(
    name="distill",
    section="distill",
    inputs=("encode", "train-autoencoder", "finetune"),
    pool="gpu",
    summary="LADD: a four-step student from the teacher's own edits",
)

GATES = "gates.json"
_MEASURED = 64  # validation pairs that the student edits on the way


def run(ctx: StageContext) -> None:
    """Synthesise teacher edits (kept for the next run), pass the gates, train, measure.

    Raises:
        WiringError: a gate before training failed.
        GateError: the heads' loss is pinned, or losses are not finite and the recipe says to stop.
        NumericsError: the teacher was trained with other numerics than this stage has.
    """
    config = ctx.config
    assert isinstance(config, DistillConfig)
    keep_freed_memory()
    device = device_for(ctx)
    data = load_pairs(ctx.inputs["encode"], "train", device)
    teacher = load_transformer(ctx.inputs["finetune"], "flow.safetensors", device)

    ledger = _ledger(ctx, config, data, teacher)

    edits = choose_edits(data, config)
    referring = len(data.edits()) - len(data.plain_edits())
    if referring:
        ctx.note(
            f"{referring:,} edits with references are not distilled: the heads see one context"
        )
    sampler = edit_sampler(config, data)
    synthetic, folder = synthesise(ctx, sampler, edits, teacher, ledger)
    method = DistillMethod(config, data, edits, synthetic.to(device), teacher)
    passed = _gates(ctx, method, sampler)
    method.state.ledger = {**ledger, **optimizer_ledger(method.state.optimizers), **passed}
    history = _train(ctx, method, folder)
    for verdict in check_training(history):
        ctx.note(verdict)
    method.state.ema["student"].copy_to(method.student)
    method.student.requires_grad_(False).eval()
    _write(ctx, method, history)
    _summarise(ctx, config, method)


def _train(ctx: StageContext, method: DistillMethod, edits: Path) -> list[dict[str, float]]:
    """All steps: on ranks where the recipe asks for them, then what is left in this process.

    `edits` is the folder with the teacher's.
    """
    config, device = method.config, method.device
    checkpoints = checkpoints_of(ctx, config, stage="distill")
    progress = report_progress(ctx, "distill")
    train_on_ranks(
        ctx,
        method,
        config,
        checkpoints,
        progress,
        train_student,
        encoded=ctx.inputs["encode"].digest,
        teacher=ctx.inputs["finetune"].digest,
        edits=str(edits),
        bank=BANK,
    )
    return fit(
        method,
        checkpoints=checkpoints,
        progress=progress,
        policy=config.guard,
        clock=Clock(
            ladd_work(config, method.data, method.teacher.shape),
            peak_flops(device, compute_dtype(config.parallel.precision, device)),
            device,
        ),
        measure=_measured(ctx, method),
    )


def _write(ctx: StageContext, method: DistillMethod, history: list[dict[str, float]]) -> None:
    """Weights, heads, what was measured, and pictures."""
    config, student = method.config, method.student
    save_weights(ctx, "student.safetensors", student.state_dict())
    save_weights(ctx, "heads.safetensors", method.heads.state_dict())
    ctx.output.add_json(
        "config.json",
        {
            "shape": student.shape.model_dump(mode="json"),
            "steps": config.student_steps,
            "taps": method.taps,
        },
    )
    ctx.output.add_json(LEDGER, method.state.ledger)
    ctx.output.add_table("history.parquet", history_table(history))
    report_incidents(ctx, method.state)
    report_measured(ctx, method.state)
    held_out = load_pairs(ctx.inputs["encode"], "val", method.device)
    sheet = preview_edits(ctx, student, held_out, steps=config.student_steps)
    ctx.output.add_bytes("samples.png", sheet)
    ctx.report.image("distill-samples", sheet, "validation pairs: context | student | target")
    ctx.output.metric("teacher_edits", len(method.edits))


def _measured(ctx: StageContext, method: DistillMethod) -> Measure | None:
    """The student's edits of validation pairs on the way, where the recipe asks for them."""
    config = method.config
    if not config.validate_every:
        return None
    held_out = load_pairs(ctx.inputs["encode"], "val", method.device)
    pairs, board = held_out.plain_edits()[:_MEASURED], board_of(ctx, "distill")
    sampler = EditSampler(held_out, config.student_steps, 1.0, config.seed)
    target = held_out.latents[held_out.target[pairs]]

    def measure(step: int) -> Mapping[str, float]:
        with method.state.ema["student"].applied(method.student):
            made = sampler.edits(method.student, pairs)
            sheet = preview_edits(ctx, method.student, held_out, steps=config.student_steps)
        ctx.report.image("distill-samples", sheet, f"validation pairs after {step:,} steps")
        board.picture(step, "distill/samples", sheet)
        return {"val_edit_error": float((made.to(target.device) - target).square().mean())}

    return Measure(config.validate_every, measure)


def _gates(ctx: StageContext, method: DistillMethod, sampler: EditSampler) -> Ledger:
    """Run the gates, show and store what they saw; returns their line of the ledger.

    Raises:
        WiringError: a gate failed; nothing has been trained.
    """
    findings = run_gates(method, sampler)
    rows = [finding.row() for finding in findings]
    for row in rows:
        ctx.log.info("gate %s: %s", row["gate"], row["seen"])
    ctx.report.table("distill-gates", rows)
    stop_at_failure(findings)
    ctx.output.add_json(GATES, rows)
    return {"gates: passed with settings": settings_digest(method.config)}


def _summarise(ctx: StageContext, config: DistillConfig, method: DistillMethod) -> None:
    recent, shape = method.state.history[-20:], method.teacher.shape

    def predict(machine: Machine) -> StagePlan:
        return plan_student(config, shape, pair_tokens(method.data), machine)

    for name in ("accuracy", "heads_loss", "student_loss", "student_grad_norm"):
        ctx.output.metric(name, sum(row[name] for row in recent) / len(recent))
    ctx.report.markdown(
        "distill-summary",
        f"**{len(method.edits):,}** teacher edits ({config.teacher_steps} steps, guidance "
        f"{config.guidance:g}), then {config.steps} LADD steps on taps {list(method.taps)}; heads "
        f"tell real from fake {sum(r['accuracy'] for r in recent) / len(recent):.0%} of the time. "
        f"{report_speed(ctx, 'distill', method.state, predict)}",
    )


def _ledger(
    ctx: StageContext, config: DistillConfig, data: PairTensors, teacher: FluxTransformer
) -> Ledger:
    """What the student's numbers mean, measured on what was loaded, and agreed with `finetune`."""
    device = data.latents.device
    measured = {
        **transformer_ledger(
            teacher,
            data.target_tokens,
            compute_dtype(config.parallel.precision, device),
            device,
        ),
        "text: length": str(data.text_tokens.shape[1]),
        "text: dtype": str(data.text_tokens.dtype).removeprefix("torch."),
        "codec: sha256": codec_digest(ctx),
    }
    ledger = {**encoded_lines(ctx), **measured}
    agree(ctx, "distill", ledger, "finetune", arithmetic=config.same_arithmetic)
    record(ctx, "distill", ledger)
    return ledger
