"""Stage train-autoencoder: adversarial KL autoencoder, with its latent scale measured."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from kontext.data.images import contact_sheet
from kontext.data.judge import ssim
from kontext.data.loader import load_split
from kontext.data.split import SPLITS_IN_ORDER
from kontext.errors import GateError
from kontext.models.features import load_features
from kontext.models.precision import compute_dtype
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.peaks import peak_flops
from kontext.stage import StageContext
from kontext.stages.numerics import LEDGER, record
from kontext.stages.training import (
    device_for,
    history_table,
    report_incidents,
    report_progress,
    report_speed,
)
from kontext.train.autoencoder import AutoencoderMethod, measure_latents, psnr, reconstruct
from kontext.train.checkpoint import Checkpoints
from kontext.train.clock import Clock
from kontext.train.ledger import codec_ledger, optimizer_ledger
from kontext.train.loop import fit
from kontext.train.work import codec_work
from schemas.recipes import AutoencoderConfig

_SHOWN = 16


def run(ctx: StageContext) -> None:
    """Train on the images of the train split, measure on those of the test split.

    Raises:
        GateError: a split is empty, so there is nothing to train on or to measure with.
    """
    config = ctx.config
    assert isinstance(config, AutoencoderConfig)
    keep_freed_memory()
    device = device_for(ctx)
    images = {name: load_split(ctx.inputs["shard"], name).images for name in SPLITS_IN_ORDER}
    if not all(map(len, images.values())):  # the validation split is the next stages': say it now
        found = ", ".join(f"{name} {len(part)}" for name, part in images.items())
        raise GateError(
            f"a split has no images ({found}): the sources have too few unrelated groups to hold "
            "any out; add images, or raise shard.test_fraction or shard.val_fraction"
        )
    train = _channels_first(images["train"], device)
    held_out = _channels_first(images["test"], device)
    method = AutoencoderMethod(config, train, load_features(device=device))
    method.state.ledger = {
        **codec_ledger(method.model, compute_dtype("auto", device), device),
        **optimizer_ledger(method.state.optimizers),
    }
    record(ctx, "autoencoder", method.state.ledger)
    history = fit(
        method,
        checkpoints=Checkpoints(ctx.scratch / "checkpoints", config.checkpoint_every),
        progress=report_progress(ctx, "autoencoder"),
        policy=config.guard,
        clock=Clock(
            codec_work(config, train.shape[-1]),
            peak_flops(device, compute_dtype("auto", device)),
            device,
        ),
    )
    model = method.model
    method.state.ema["model"].copy_to(model)
    model.requires_grad_(False).eval()
    scale, shift = measure_latents(model, train)
    model.set_latent_stats(scale, shift)

    path = ctx.scratch / "autoencoder.safetensors"
    save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, path)
    ctx.output.add_file("autoencoder.safetensors", path)
    ctx.output.add_json("config.json", model.config())
    ctx.output.add_json(LEDGER, method.state.ledger)
    ctx.output.add_table("history.parquet", history_table(history))
    report_incidents(ctx, method.state)
    _measure(ctx, method, train, held_out, scale, shift)


def _channels_first(
    images: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], device: torch.device
) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)


def _measure(
    ctx: StageContext,
    method: AutoencoderMethod,
    train: Tensor,
    held_out: Tensor,
    scale: float,
    shift: float,
) -> None:
    """Held-out quality, latent health, and pictures."""
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
    for name, value in quality.items():
        ctx.output.metric(name, value)
    with torch.no_grad():
        latents = method.model.encode(held_out[:256].float() / 127.5 - 1).float()
    ctx.output.add_json(
        "health.json",
        {
            **quality,
            "perceptual_backbone": "EfficientNet-Lite0",
            "channel_std": [round(float(v), 4) for v in latents.std(dim=(0, 2, 3))],
            "channel_mean": [round(float(v), 4) for v in latents.mean(dim=(0, 2, 3))],
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
        f"Held-out PSNR **{quality['psnr_held_out']:.2f} dB**, SSIM {quality['ssim_held_out']:.3f} "
        f"on {len(held_out)} images; measured scale {scale:.4f}, shift {shift:.4f}. "
        f"{report_speed(ctx, 'autoencoder', method.state)}",
    )


def _channels_last(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return images.permute(0, 2, 3, 1).cpu().contiguous().numpy()
