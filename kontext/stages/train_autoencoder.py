"""Stage train-autoencoder: adversarial KL autoencoder, with its latent scale measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from kontext.data.image_stream import StreamedImages
from kontext.data.images import contact_sheet
from kontext.data.judge import ssim
from kontext.data.split import SPLITS_IN_ORDER
from kontext.errors import GateError
from kontext.models.precision import compute_dtype
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.peaks import peak_flops
from kontext.parallel.world import World
from kontext.plan import Machine, StagePlan, plan_codec
from kontext.stage import Stage, StageContext
from kontext.stages.numerics import LEDGER, record
from kontext.stages.pictures import MEASURED, some_images, split_images, training_images
from kontext.stages.ranks import checkpoints_of, train_codec, train_on_ranks
from kontext.stages.start import starting_codec
from kontext.stages.training import (
    board_of,
    device_for,
    history_table,
    report_incidents,
    report_measured,
    report_progress,
    report_speed,
)
from kontext.train.autoencoder import AutoencoderMethod, measure_latents, psnr, reconstruct
from kontext.train.clock import Clock
from kontext.train.ledger import codec_ledger, optimizer_ledger
from kontext.train.loop import Measure, fit
from kontext.train.perceptual import NAMES, load_backbone
from kontext.train.reconstruction import MetricCard, cards, latent_health
from kontext.train.watchdog import Watchdog
from kontext.train.work import codec_work
from schemas.train_config import AutoencoderConfig

STAGE = Stage(
    name="train-autoencoder",
    section="autoencoder",
    inputs=("shard",),
    pool="gpu",
    external="kontext.stages.start:codec_fingerprint",
    summary="train the f8 x 16 KL autoencoder (L1 + perceptual + PatchGAN), measure scale",
)

_SHOWN = 16
_WATCHED = 64  # held-out images that are rebuilt on the way


def run(ctx: StageContext) -> None:
    """Train on the images of the train split, measure on those of the test split.

    Raises:
        GateError: a split is empty, so there is nothing to train on or to measure with.
    """
    config = ctx.config
    assert isinstance(config, AutoencoderConfig)
    keep_freed_memory()
    device = device_for(ctx)
    source, held_out = _images(ctx, config, device)
    train = some_images(source).to(device)
    features, world = load_backbone(config, device), World(device=device)
    method = AutoencoderMethod(config, source, features, starting_codec(ctx, config), world)
    method.state.ledger = {
        **codec_ledger(method.model, compute_dtype("auto", device), device),
        **optimizer_ledger(method.state.optimizers),
    }
    record(ctx, "autoencoder", method.state.ledger)
    checkpoints = checkpoints_of(ctx, config, stage="train-autoencoder")
    progress, shards = report_progress(ctx, "autoencoder"), ctx.inputs["shard"].digest
    train_on_ranks(ctx, method, config, checkpoints, progress, train_codec, shards=shards)
    history = fit(
        method,
        checkpoints=checkpoints,
        progress=progress,
        policy=config.guard,
        clock=Clock(
            codec_work(config, train.shape[-1]),
            peak_flops(device, compute_dtype("auto", device)),
            device,
        ),
        watchdog=Watchdog(config.launch.stall_seconds, ctx.scratch / "stacks.txt"),
        measure=_measured(ctx, method, held_out),
    )
    model = method.model
    method.state.ema["model"].copy_to(model)
    model.requires_grad_(False).eval()
    if not config.decoder_only:  # else latents made before stay what they were
        model.set_latent_stats(*measure_latents(model, train))

    path = ctx.scratch / "autoencoder.safetensors"
    save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, path)
    ctx.output.add_file("autoencoder.safetensors", path)
    ctx.output.add_json("config.json", model.config())
    ctx.output.add_json(LEDGER, method.state.ledger)
    ctx.output.add_table("history.parquet", history_table(history))
    report_incidents(ctx, method.state)
    report_measured(ctx, method.state)
    _measure(ctx, method, train, held_out)


def _images(
    ctx: StageContext, config: AutoencoderConfig, device: torch.device
) -> tuple[Tensor | StreamedImages, Tensor]:
    """What to train on, and the images of the test split."""
    shards = ctx.inputs["shard"]
    source = training_images(config, shards, ctx.scratch / "shards", World(device=device))
    others = {name: split_images(shards, name, device, MEASURED) for name in SPLITS_IN_ORDER[1:]}
    sizes = {SPLITS_IN_ORDER[0]: len(source), **{name: len(part) for name, part in others.items()}}
    if not all(sizes.values()):  # the validation split is the next stages': say it now
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise GateError(
            f"a split has no images ({found}): the sources have too few unrelated groups to hold "
            "any out; add images, or raise shard.test_fraction or shard.val_fraction"
        )
    return source, others["test"]


def _measured(ctx: StageContext, method: AutoencoderMethod, held_out: Tensor) -> Measure | None:
    """Reconstructions on the way, where the recipe asks for them."""
    if not method.config.validate_every:
        return None
    board, few = board_of(ctx, "autoencoder"), held_out[:_WATCHED]

    def measure(step: int) -> Mapping[str, float]:
        with method.state.ema["model"].applied(method.model):
            rebuilt = reconstruct(method.model, few)
        rows = [list(_channels_last(images[:_SHOWN])) for images in (few, rebuilt)]
        sheet = contact_sheet(rows, row_labels=["held out", "rebuilt"], cell=96)
        ctx.report.image("autoencoder-reconstructions", sheet, f"after {step:,} steps")
        board.picture(step, "autoencoder/reconstructions", sheet)
        return {"val_psnr": float(psnr(rebuilt, few).mean())}

    return Measure(method.config.validate_every, measure)


def _measure(ctx: StageContext, method: AutoencoderMethod, train: Tensor, held_out: Tensor) -> None:
    """Held-out quality with a card for every number, latent health, and pictures."""
    scale, shift = method.model.scale, method.model.shift

    def predict(machine: Machine) -> StagePlan:
        return plan_codec(method.config, train.shape[-1], machine)

    rebuilt = reconstruct(method.model, held_out)
    decibels = psnr(rebuilt, held_out)
    real, fake = _channels_last(held_out), _channels_last(rebuilt)
    quality = {
        "psnr_held_out": float(decibels.mean()),
        "psnr_train": float(psnr(reconstruct(method.model, train[:512]), train[:512]).mean()),
        "ssim_held_out": float(np.mean(ssim(real, fake))),
        "latent_scale": scale,
        "latent_shift": shift,
    }
    found = _cards(method, held_out, rebuilt, quality)
    quality |= {f"{card.name}_held_out": card.value for card in found if card.backbone != "none"}
    for name, value in quality.items():
        ctx.output.metric(name, value)
    ctx.output.add_json("cards.json", [card.row() for card in found])
    ctx.report.table("autoencoder-metrics", [card.row() for card in found])
    with torch.no_grad():
        latents = method.model.encode(held_out[:256].float() / 127.5 - 1).float()
    ctx.output.add_json(
        "health.json",
        {
            **quality,
            "perceptual_backbone": NAMES[method.config.perceptual],
            **latent_health(latents),
        },
    )
    order = torch.argsort(decibels).tolist()
    picks = order[:: max(1, len(order) // _SHOWN)][:_SHOWN]
    sheet = contact_sheet(
        [[real[i] for i in picks], [fake[i] for i in picks]],
        row_labels=["held out", "rebuilt"],
        cell=96,
    )
    ctx.output.add_bytes("reconstructions.png", sheet)
    ctx.report.image("autoencoder-reconstructions", sheet, "held-out images, worst PSNR first")
    ctx.report.markdown(
        "autoencoder-summary",
        f"Held-out PSNR **{quality['psnr_held_out']:.2f} dB**, SSIM "
        f"{quality['ssim_held_out']:.3f}, LPIPS {quality['lpips_held_out']:.4f}, rFID "
        f"{quality['rfid_held_out']:.2f} "
        f"({NAMES[method.config.perceptual]}) on {len(held_out)} images; measured scale "
        f"{scale:.4f}, shift {shift:.4f}. "
        f"{report_speed(ctx, 'autoencoder', method.state, predict)}",
    )


def _cards(
    method: AutoencoderMethod, held_out: Tensor, rebuilt: Tensor, quality: Mapping[str, float]
) -> list[MetricCard]:
    assert method.features is not None
    return cards(
        held_out,
        rebuilt,
        quality["psnr_held_out"],
        quality["ssim_held_out"],
        method.features,
        NAMES[method.config.perceptual],
        method.config.perceptual_levels,
    )


def _channels_last(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return images.permute(0, 2, 3, 1).cpu().contiguous().numpy()
