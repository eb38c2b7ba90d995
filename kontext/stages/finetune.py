"""Stage finetune: the rectified-flow transformer, text-to-image first, then jointly with edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import save_file

from kontext.data.latents import load_pairs
from kontext.models.precision import compute_dtype
from kontext.models.trained import load_autoencoder
from kontext.models.transformer import FluxTransformer
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.peaks import peak_flops
from kontext.plan import plan_flow
from kontext.stage import Stage, StageContext
from kontext.stages.numerics import LEDGER, agree, codec_digest, encoded_lines, record
from kontext.stages.preview import preview_edits
from kontext.stages.ranks import (
    checkpoints_of,
    train,
    train_guidance,
    train_on_ranks,
    train_pictures,
)
from kontext.stages.start import save_adapters, starting_model
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
from kontext.train.flow import FlowMethod, level_losses, validation
from kontext.train.guidance import GuidanceMethod
from kontext.train.ledger import Ledger, optimizer_ledger, transformer_ledger
from kontext.train.loop import Measure, fit
from kontext.train.perceptual import load_backbone
from kontext.train.pictures import PictureMethod
from kontext.train.watchdog import Watchdog
from kontext.train.work import flow_work
from schemas.train_config import AutoencoderConfig, FinetuneConfig

STAGE = Stage(
    name="finetune",
    section="finetune",
    inputs=("encode", "train-autoencoder"),
    pool="gpu",
    external="kontext.stages.start:fingerprint",
    summary="rectified-flow transformer: text-to-image, then joint text and image",
)


def run(ctx: StageContext) -> None:
    """Train on the train split, measure loss per level and category on the validation split.

    Raises:
        RecipeError: `finetune.init` points to nothing, or to a transformer of another shape.
        NumericsError: the latents or texts were not encoded as this recipe says.
        GateError: losses that are not finite, and the recipe says to stop.
    """
    config = ctx.config
    assert isinstance(config, FinetuneConfig)
    keep_freed_memory()
    device = device_for(ctx)
    pairs = load_pairs(ctx.inputs["encode"], "train", device)
    method = FlowMethod(config, pairs, starting_model(ctx, config))
    method.state.ledger = _ledger(ctx, method)
    products = compute_dtype(config.parallel.precision, device)
    checkpoints, progress = checkpoints_of(ctx, config), report_progress(ctx, "flow")
    encoded = ctx.inputs["encode"].digest
    train_on_ranks(ctx, method, config, checkpoints, progress, train, encoded=encoded)
    history = fit(
        method,
        checkpoints=checkpoints,
        progress=progress,
        policy=config.guard,
        clock=Clock(flow_work(config, method.data), peak_flops(device, products), device),
        watchdog=Watchdog(config.launch.stall_seconds, ctx.scratch / "stacks.txt"),
        measure=_measured(ctx, method),
    )
    model = method.model
    method.state.ema["model"].copy_to(model)
    if config.pictures.steps:
        _judged_in_pictures(ctx, method)
    model.requires_grad_(False).eval()
    save_adapters(ctx, config, model)
    if config.guidance_distill.steps:
        model = _told_its_guidance(ctx, method).requires_grad_(False).eval()
    save_weights(ctx, "flow.safetensors", model.state_dict())
    ctx.output.add_json("config.json", {"shape": model.shape.model_dump(mode="json")})
    ctx.output.add_json(LEDGER, method.state.ledger)
    ctx.output.add_table("history.parquet", history_table(history))
    mixture = method.mixture()
    ctx.output.add_json("mixture.json", mixture)
    ctx.report.table("finetune-mixture", mixture)
    report_incidents(ctx, method.state)
    report_measured(ctx, method.state)
    _validated(ctx, method, model, history)


def _validated(
    ctx: StageContext, flow: FlowMethod, model: FluxTransformer, history: list[dict[str, float]]
) -> None:
    """Loss per level and category of held-out pairs, their edits in pictures, and the summary."""
    config = flow.config
    tokens = pair_tokens(flow.data)
    speed = report_speed(ctx, "finetune", flow.state, lambda at: plan_flow(config, tokens, at))
    held_out = load_pairs(ctx.inputs["encode"], "val", flow.device)
    levels = level_losses(model, held_out, seed=config.seed)
    ctx.output.add_table("levels.parquet", pa.Table.from_pylist(levels))
    sheet = preview_edits(ctx, model, held_out, steps=12)
    ctx.output.add_bytes("samples.png", sheet)
    ctx.report.image("finetune-samples", sheet, "validation pairs: context | edit | target")
    losses = torch.tensor([float(row["loss"]) for row in levels])
    ctx.output.metric("parameters", sum(p.numel() for p in model.parameters()))
    ctx.output.metric("val_loss", float(losses.mean()))
    ctx.output.metric("train_loss_last", sum(r["loss"] for r in history[-20:]) / len(history[-20:]))
    ctx.report.table("finetune-levels", [dict(row) for row in levels])
    ctx.report.markdown(
        "finetune-summary",
        f"**{flow.total_steps:,}** steps ({config.t2i_steps:,} text-to-image, "
        f"{config.joint_steps:,} joint) of batch {config.batch}, then {config.pictures.steps:,} "
        f"judged in pictures; validation loss over eight noise "
        f"levels **{losses.mean():.4f}**. {speed}",
    )


def _measured(ctx: StageContext, method: FlowMethod) -> Measure | None:
    """Validation loss and a sample grid on the way, where the recipe asks for them."""
    if not method.config.validate_every:
        return None
    held_out = load_pairs(ctx.inputs["encode"], "val", method.device)
    loss, board = validation(method, held_out), board_of(ctx, "flow")

    def measure(step: int) -> Mapping[str, float]:
        with method.state.ema["model"].applied(method.model):
            sheet = preview_edits(ctx, method.model, held_out, steps=12)
        ctx.report.image("finetune-samples", sheet, f"validation pairs after {step:,} steps")
        board.picture(step, "flow/samples", sheet)
        return loss(step)

    return Measure(method.config.validate_every, measure)


def _judged_in_pictures(ctx: StageContext, flow: FlowMethod) -> None:
    """Train the flow's averaged weights on by the pictures that they make, in place."""
    codec = load_autoencoder(ctx.inputs["train-autoencoder"], flow.device)
    trained = ctx.upstream("train-autoencoder", AutoencoderConfig)
    features = load_backbone(trained, flow.device)
    method = PictureMethod(flow.config, flow.data, flow.model, codec, features)
    history = _trained_on(
        ctx,
        flow,
        method,
        "pictures",
        train_pictures,
        codec=ctx.inputs["train-autoencoder"].digest,
        autoencoder=trained.model_dump(mode="json"),
    )
    recent = [row["embedding"] for row in history[-20:]]
    ctx.output.metric("picture_embedding_last", sum(recent) / len(recent))
    method.state.ema["model"].copy_to(method.model)


def _told_its_guidance(ctx: StageContext, flow: FlowMethod) -> FluxTransformer:
    """Guidance distillation of the trained flow; enters its mode in the ledger."""
    method = GuidanceMethod(flow.config, flow.data, flow.model)
    settings = flow.config.guidance_distill
    flow.state.ledger.update(
        {
            "guidance: mode": "embedded",
            "guidance: distilled": f"{settings.low:g} to {settings.high:g}",
        }
    )
    teacher = ctx.scratch / "teacher.safetensors"
    save_file({k: v.contiguous() for k, v in method.teacher.state_dict().items()}, teacher)
    history = _trained_on(ctx, flow, method, "guidance", train_guidance, teacher=str(teacher))
    recent = history[-20:]
    deaf = sum(row["unguided"] for row in recent)
    ctx.output.metric("guidance_unlearned", sum(row["loss"] for row in recent) / max(deaf, 1e-12))
    method.state.ema["model"].copy_to(method.student)
    return method.student


def _trained_on(
    ctx: StageContext,
    flow: FlowMethod,
    method: PictureMethod | GuidanceMethod,
    name: str,
    work: Callable[..., None],
    **arguments: Any,
) -> list[dict[str, float]]:
    """All steps of what follows the flow, under its ledger; the history is `<name>.parquet`.

    `work` is what ranks do, where the recipe asks for them, and `arguments` what only they need.
    """
    config = flow.config
    method.state.ledger = dict(flow.state.ledger)
    checkpoints, progress = checkpoints_of(ctx, config, name), report_progress(ctx, name)
    encoded = ctx.inputs["encode"].digest
    train_on_ranks(
        ctx, method, config, checkpoints, progress, work, name=name, encoded=encoded, **arguments
    )
    history = fit(method, checkpoints=checkpoints, progress=progress, policy=config.guard)
    ctx.output.add_table(f"{name}.parquet", history_table(history))
    report_incidents(ctx, method.state)
    return history


def _ledger(ctx: StageContext, method: FlowMethod) -> Ledger:
    """What the flow's numbers mean, measured on what was loaded, and agreed with `encode`."""
    config, device = method.config, method.device
    measured = {
        **transformer_ledger(
            method.model,
            method.data.target_tokens,
            compute_dtype(config.parallel.precision, device),
            device,
        ),
        **optimizer_ledger(method.state.optimizers),
        "guidance: text dropout": f"{config.text_dropout:g}",
        "guidance: image dropout": f"{config.image_dropout:g}",
        "guidance: dropout of both": f"{config.both_dropout:g}",
        "text: length": str(method.data.text_tokens.shape[1]),
        "text: dtype": str(method.data.text_tokens.dtype).removeprefix("torch."),
        "codec: sha256": codec_digest(ctx),
    }
    agree(ctx, "finetune", measured, "encode", arithmetic=False)
    ledger = {**encoded_lines(ctx), **measured}
    record(ctx, "finetune", ledger)
    return ledger
