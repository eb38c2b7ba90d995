"""Stage distill: the teacher's guided edits, then LADD against them."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kontext.data.latents import load_pairs
from kontext.evaluate.models import load_transformer
from kontext.models.batch import PairTensors, gather
from kontext.models.precision import autocast, compute_dtype
from kontext.models.transformer import FluxTransformer
from kontext.parallel.memory import keep_freed_memory
from kontext.sample.euler import Guidance, Prompt, noise, sample
from kontext.stage import StageContext
from kontext.stages.numerics import LEDGER, agree, codec_digest, encoded_lines, record
from kontext.stages.preview import preview_edits
from kontext.stages.training import (
    device_for,
    history_table,
    report_incidents,
    report_progress,
    report_speed,
    save_weights,
)
from kontext.train.clock import Clock
from kontext.train.distill import DistillMethod, check_training, check_wiring
from kontext.train.ledger import Ledger, optimizer_ledger, transformer_ledger
from kontext.train.loop import fit
from kontext.train.work import ladd_work
from schemas.recipes import DistillConfig

_BATCH = 64


def run(ctx: StageContext) -> None:
    """Synthesise teacher edits (kept if the stage was killed), check the wiring, train, measure.

    Raises:
        GateError: a wiring gate failed, the heads' loss is pinned, or losses are not finite and
            the recipe says to stop.
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
    synthetic = _teacher_edits(ctx, config, data, edits, teacher).to(device)
    method = DistillMethod(config, data, edits, synthetic, teacher)
    check_wiring(method)
    method.state.ledger = {**ledger, **optimizer_ledger(method.state.optimizers)}
    history = fit(
        method,
        checkpoint=ctx.scratch / "checkpoint.pt",
        checkpoint_every=config.checkpoint_every,
        progress=report_progress(ctx, "distill"),
        policy=config.guard,
        clock=Clock(ladd_work(config, data), device=device),
    )
    for verdict in check_training(history):
        ctx.note(verdict)
    method.state.ema["student"].copy_to(method.student)
    student = method.student.requires_grad_(False).eval()

    save_weights(ctx, "student.safetensors", student.state_dict())
    save_weights(ctx, "heads.safetensors", method.heads.state_dict())
    ctx.output.add_file("teacher_edits.safetensors", ctx.scratch / "teacher_edits.safetensors")
    ctx.output.add_json(
        "config.json",
        {
            "shape": teacher.shape.model_dump(mode="json"),
            "steps": config.student_steps,
            "taps": method.taps,
        },
    )
    ctx.output.add_json(LEDGER, method.state.ledger)
    ctx.output.add_table("history.parquet", history_table(history))
    report_incidents(ctx, method.state)
    held_out = load_pairs(ctx.inputs["encode"], "val", device)
    sheet = preview_edits(ctx, student, held_out, steps=config.student_steps)
    ctx.output.add_bytes("samples.png", sheet)
    ctx.report.image("distill-samples", sheet, "validation pairs: context | student | target")
    ctx.output.metric("teacher_edits", len(edits))
    _summarise(ctx, config, method)


def _summarise(ctx: StageContext, config: DistillConfig, method: DistillMethod) -> None:
    recent = method.state.history[-20:]
    for name in ("accuracy", "heads_loss", "student_loss", "student_grad_norm"):
        ctx.output.metric(name, sum(row[name] for row in recent) / len(recent))
    ctx.report.markdown(
        "distill-summary",
        f"**{len(method.edits):,}** teacher edits ({config.teacher_steps} steps, guidance "
        f"{config.guidance:g}), then {config.steps} LADD steps on taps {list(method.taps)}; heads "
        f"tell real from fake {sum(r['accuracy'] for r in recent) / len(recent):.0%} of the time. "
        f"{report_speed(ctx, 'distill', method.state)}",
    )


def _ledger(
    ctx: StageContext, config: DistillConfig, data: PairTensors, teacher: FluxTransformer
) -> Ledger:
    """What the student's numbers mean, measured on what was loaded, and agreed with `finetune`."""
    device = data.latents.device
    measured = {
        **transformer_ledger(teacher, data.target_tokens, compute_dtype("auto", device), device),
        "text: length": str(data.text_tokens.shape[1]),
        "text: dtype": str(data.text_tokens.dtype).removeprefix("torch."),
        "codec: sha256": codec_digest(ctx),
    }
    ledger = {**encoded_lines(ctx), **measured}
    agree(ctx, "distill", ledger, "finetune", arithmetic=config.same_arithmetic)
    record(ctx, "distill", ledger)
    return ledger


def choose_edits(data: PairTensors, config: DistillConfig) -> Tensor:
    """Indices of the pairs to synthesise, as many from each category as there are."""
    draw = torch.Generator().manual_seed(config.seed)
    pools = [torch.nonzero(data.category == i).flatten() for i in range(len(data.categories))]
    edits = set(data.edits().tolist())
    pools = [torch.tensor([p for p in pool.tolist() if p in edits]) for pool in pools]
    pools = [pool[torch.randperm(len(pool), generator=draw)] for pool in pools if len(pool)]
    share = -(-config.teacher_edits // len(pools))
    chosen = torch.cat([pool[:share] for pool in pools])
    return chosen[: config.teacher_edits].long()


def _teacher_edits(
    ctx: StageContext,
    config: DistillConfig,
    data: PairTensors,
    edits: Tensor,
    teacher: FluxTransformer,
) -> Tensor:
    """Guided edits [E, C, h, w] of the teacher; taken from scratch where they are complete."""
    path = ctx.scratch / "teacher_edits.safetensors"
    if path.exists():
        return load_file(path)["latents"]
    device = data.latents.device
    empty = Prompt(data.text_tokens[:1].float(), data.text_pooled[:1].float())
    made = []
    for start in range(0, len(edits), _BATCH):
        rows = edits[start : start + _BATCH]
        batch = gather(data, rows)
        assert batch.context is not None
        eps = noise(config.seed, rows.tolist(), batch.target.shape[1:]).to(device)
        with autocast(device):
            latents = sample(
                teacher,
                eps,
                Prompt(batch.tokens, batch.pooled),
                [batch.context],
                steps=config.teacher_steps,
                guidance=Guidance(text=config.guidance),
                empty=empty,
            )
        made.append(latents.cpu())
        ctx.report.progress(start + len(rows), 2 * len(edits), "teacher edits")
    partial = path.with_suffix(".partial")
    save_file({"latents": torch.cat(made), "pairs": edits.clone()}, partial)
    partial.replace(path)
    return load_file(path)["latents"]
