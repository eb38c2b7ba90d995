"""Stage distill: the teacher's guided edits, then a student by the method that the recipe names.

Figures:
    teacher_edits: {} edits of the teacher
    accuracy: the heads tell real from fake {%} of the time
    heads_loss: loss {} of the heads
    student_loss: loss {} of the student
    fake_loss: loss {} of the fake score
    step_seconds: {} s per step
    step_utilisation: {%} of the device's peak
    step_memory_mib: {} MiB of memory
    steps_left_out: {} steps left out
"""

from collections.abc import Mapping
from functools import partial
from operator import mul

import torch

from kontext.data.encoded.latents import load_pairs
from kontext.edit.pairs import EditSampler, choose_edits, edit_sampler
from kontext.edit.preview import preview_edits
from kontext.edit.teacher_edits import synthesise
from kontext.engine.stage import Stage, StageContext
from kontext.models.precision import compute_dtype
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.capacity import estimate_student
from kontext.train.ladd.gates import check_training, run_gates, settings_digest, stop_at_failure
from kontext.train.ladd.judged import JudgedMethod
from kontext.train.ladd.student import TEACHER_EDITS
from kontext.train.loop.fit import Measure
from kontext.train.loop.training import train
from kontext.train.methods import distillation
from kontext.train.record.ledger import Ledger, optimizer_ledger
from kontext.train.record.numerics import LEDGER, check_against, report_ledger
from kontext.train.record.outputs import device_for, save_weights, write_history, write_incidents
from kontext.train.record.reporting import report_progress, report_speed, tensorboard
from kontext.train.record.transformer_ledger import pairs_ledger
from kontext.train.start.teacher import load_teacher
from schemas.sections.training import DistillConfig

STAGE = Stage(
    name="distill",
    section="distill",
    when="steps",
    inputs=("encode", "train-autoencoder", "finetune", "exclude"),
    pool="gpu",
    plugins="kontext.train.methods:distilling_modules",
    model=True,
    summary="a student of few steps from the teacher's own edits, by LADD or DMD2",
)

GATES = "gates.json"
_MEASURED = 64  # validation pairs that the student edits on the way
_AT_ONCE = 16  # of them


def run(ctx: StageContext[DistillConfig]) -> None:
    """Synthesise teacher edits (kept for the next run), pass the gates, train, measure.

    Raises:
        RecipeError: there is no such method, or its settings teach the student nothing.
        WiringError: a gate before training failed.
        DivergedError: the heads' loss is pinned, or losses are not finite and the recipe says so.
        NumericsError: the teacher was trained with other numerics than this stage has.
    """
    config = ctx.config
    build = distillation(config).build
    keep_freed_memory()
    device = device_for(ctx)
    data = load_pairs(ctx.inputs["encode"], "train", device)
    teacher = load_teacher(ctx.inputs, device)

    products = compute_dtype(config.parallel.precision, device)
    ledger = pairs_ledger(ctx, teacher, data, products, device)
    check_against(ctx, "distill", ledger, "finetune", arithmetic=config.same_arithmetic)
    report_ledger(ctx, "distill", ledger)

    edits = choose_edits(data, config)
    referring = len(data.edits()) - len(data.plain_edits())
    if referring:
        ctx.note(
            f"{referring:,} edits with references are not distilled: the heads see one context"
        )
    sampler = edit_sampler(config, data)
    inputs = Inputs.of(ctx)
    folder = synthesise(ctx, sampler, edits, teacher, ledger, inputs)
    inputs = inputs.using(teacher, {TEACHER_EDITS: folder})
    method: JudgedMethod = build(config, inputs, World(device=device))
    passed = _gates(ctx, method, sampler)
    method.state.ledger = {**ledger, **optimizer_ledger(method.state.optimizers), **passed}
    history = train(
        ctx,
        build,
        method,
        inputs,
        progress=report_progress(ctx, "distill"),
        stage="distill",
        measure=_measured(ctx, method),
    )
    if method.rests_on_heads:
        for verdict in check_training(history):
            ctx.note(verdict)
    method.state.ema["student"].copy_to(method.student)
    method.student.requires_grad_(False).eval()
    _write(ctx, method, history)
    _summarise(ctx, config, method)


def _write(ctx: StageContext, method: JudgedMethod, history: list[dict[str, float]]) -> None:
    """Weights, heads, what was measured, and pictures."""
    config, student = method.config, method.student
    save_weights(ctx, "student.safetensors", student.state_dict())
    if method.judged:
        save_weights(ctx, "heads.safetensors", method.heads.state_dict())
    shape = student.shape.model_dump(mode="json")
    settings = {"shape": shape, "steps": config.student_steps, "taps": method.taps}
    ctx.output.add_json("config.json", settings)
    ctx.output.add_json(LEDGER, method.state.ledger)
    write_history(ctx, history)
    write_incidents(ctx, method.state)
    held_out = load_pairs(ctx.inputs["encode"], "val", method.device)
    sheet = preview_edits(
        ctx.inputs["train-autoencoder"], student, held_out, steps=config.student_steps
    )
    ctx.output.add_bytes("samples.png", sheet)
    ctx.report.image("distill-samples", sheet, "validation pairs: context | student | target")
    ctx.output.metric("teacher_edits", len(method.edits))


def _measured(ctx: StageContext, method: JudgedMethod) -> Measure | None:
    """The student's edits of validation pairs on the way, where the recipe asks for them."""
    config = method.config
    if not config.validate_every:
        return None
    held_out = load_pairs(ctx.inputs["encode"], "val", method.device)
    pairs, board = held_out.plain_edits()[:_MEASURED], tensorboard(ctx, "distill")
    sampler = EditSampler(held_out, config.student_steps, 1.0, config.seed)
    groups = [pairs[rows] for rows in held_out.by_shape(pairs)]
    alike = [few for own in groups for few in torch.split(own, _AT_ONCE)]
    targets = [held_out.latents[held_out.target[part]] for part in alike]

    def measure(step: int) -> Mapping[str, float]:
        with method.state.ema["student"].applied(method.student):
            made = [sampler.edits(method.student, part) for part in alike]
            sheet = preview_edits(
                ctx.inputs["train-autoencoder"],
                method.student,
                held_out,
                steps=config.student_steps,
            )
        ctx.report.image("distill-samples", sheet, f"validation pairs after {step:,} steps")
        board.picture(step, "distill/samples", sheet)
        off = [one.to(other) - other for one, other in zip(made, targets, strict=True)]
        shares = [len(part) / len(pairs) for part in alike]
        errors = [float(part.square().mean()) for part in off]
        return {"val_edit_error": sum(map(mul, errors, shares))}

    return Measure(config.validate_every, measure)


def _gates(ctx: StageContext, method: JudgedMethod, sampler: EditSampler) -> Ledger:
    """Run the gates, show and store what they saw; returns their line of the ledger.

    Raises WiringError where a gate failed; nothing has been trained then.
    """
    findings = run_gates(method, sampler)
    rows = [finding.row() for finding in findings]
    for row in rows:
        ctx.log.info("gate %s: %s", row["gate"], row["seen"])
    ctx.report.table("distill-gates", rows)
    stop_at_failure(findings)
    ctx.output.add_json(GATES, rows)
    return {"gates: passed with settings": settings_digest(method.config)}


def _summarise(ctx: StageContext, config: DistillConfig, method: JudgedMethod) -> None:
    recent = method.state.history[-20:]
    means = {name: sum(row[name] for row in recent) / len(recent) for name in recent[-1]}
    for name in ("accuracy", "heads_loss", "student_loss", "student_grad_norm", "fake_loss"):
        if name in means:
            ctx.output.metric(name, means[name])
    shape, tokens = method.teacher.shape, method.data.edit_tokens
    estimate = partial(estimate_student, config, shape, tokens)
    speed = report_speed(ctx, "distill", method.state, estimate)
    judged = ""
    if method.judged:
        right = f"heads tell real from fake {means['accuracy']:.0%} of the time"
        judged = f" on taps {list(method.taps)}; {right}"
    ctx.report.markdown(
        "distill-summary",
        f"**{len(method.edits):,}** teacher edits ({config.teacher_steps} steps, guidance "
        f"{config.guidance:g}), then {config.steps} {config.method.upper()} steps{judged}. {speed}",
    )
