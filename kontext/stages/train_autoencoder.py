"""Stage train-autoencoder: adversarial KL autoencoder, with its latent scale measured; or a given
one, as it is or with its decoder trained further.

Figures:
    psnr_held_out: PSNR {} dB on held-out images
    ssim_held_out: SSIM {} on held-out images
    lpips_held_out: LPIPS {} on held-out images
    rfid_held_out: rFID {} on held-out images
    psnr_train: PSNR {} dB on training images
    latent_scale: latents scaled by {}
    latent_shift: latents shifted by {}
    step_seconds: {} s per step
    step_utilisation: {%} of the device's peak
    step_memory_mib: {} MiB of memory
    steps_left_out: {} steps left out
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kontext.data.contact_sheet import contact_sheet
from kontext.data.pixels import Pixels
from kontext.data.quality.pixels import ssim
from kontext.data.shards.training_images import MEASURED, some_images, split_images
from kontext.data.split import SPLITS_IN_ORDER
from kontext.engine.stage import Stage, StageContext
from kontext.errors import GateError
from kontext.parallel.memory import keep_freed_memory
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.capacity import estimate_autoencoder
from kontext.train.images.perceptual import NAMES
from kontext.train.images.reconstruction import cards, latent_health
from kontext.train.loop.fit import Measure
from kontext.train.loop.training import train
from kontext.train.methods import autoencoder
from kontext.train.methods.autoencoder import (
    AutoencoderMethod,
    images_at_once,
    measure_latents,
    psnr,
    reconstruct,
)
from kontext.train.record.ledger import codec_ledger, optimizer_ledger
from kontext.train.record.numerics import LEDGER, report_ledger
from kontext.train.record.outputs import device_for, save_weights, write_history, write_incidents
from kontext.train.record.reporting import report_progress, report_speed, tensorboard
from kontext.train.start.autoencoder import starting_autoencoder
from schemas.sections.training import AutoencoderConfig

STAGE = Stage(
    name="train-autoencoder",
    section="autoencoder",
    inputs=("shard",),
    pool="gpu",
    external="kontext.train.start.digest:autoencoder_digest",
    weights=("autoencoder",),
    model=True,
    summary="train the f8 x 16 KL autoencoder (L1 + perceptual + PatchGAN), measure scale",
)

_SHOWN = 16
_WATCHED = 64  # held-out images that are rebuilt on the way


def run(ctx: StageContext[AutoencoderConfig]) -> None:
    """Train on the images of the train split, measure on those of the test split.

    Scale and shift of given weights stay, unless the recipe says to train all of them.

    Raises:
        GateError: a split is empty: nothing to train on, or to measure with.
        RecipeError, WeightsError: see `starting_autoencoder`.
    """
    keep_freed_memory()
    device = device_for(ctx)
    given = starting_autoencoder(ctx)
    as_it_is = given is not None and ctx.config.given == "nothing"
    if given is not None:  # ranks build a model of the section's shape
        own = {"shape": given.shape, **({"crop": 0} if as_it_is else {})}  # crops are for training
        ctx = replace(ctx, config=ctx.config.model_copy(update=own))
    config = ctx.config
    inputs = Inputs.of(ctx).using(given)
    method = autoencoder.build(config, inputs, World(device=device))
    held_out = _held_out(ctx, method, device)
    images = some_images(method.images).to(device)
    method.state.ledger = {
        **codec_ledger(method.model, method.products, device),
        **optimizer_ledger(method.state.optimizers),
    }
    report_ledger(ctx, "autoencoder", method.state.ledger)
    if as_it_is:
        ctx.note("the given autoencoder is taken as it is")
    else:
        _train(ctx, method, inputs, held_out)
    model = method.model.requires_grad_(False).eval()
    if given is None or config.given == "all":
        scale, shift = measure_latents(model, images)
        if given is not None:
            ctx.note(
                f"all of the given autoencoder was trained: scale {model.scale:.4f} and shift "
                f"{model.shift:.4f} are {scale:.4f} and {shift:.4f} now"
            )
        model.set_latent_stats(scale, shift)

    save_weights(ctx, "autoencoder.safetensors", model.state_dict())
    ctx.output.add_json("config.json", model.config())
    ctx.output.add_json(LEDGER, method.state.ledger)
    _measure(ctx, method, images, held_out)


def _train(
    ctx: StageContext[AutoencoderConfig],
    method: AutoencoderMethod,
    inputs: Inputs,
    held_out: Sequence[Tensor],
) -> None:
    """Take the method to its last step; the model comes out with its averaged weights."""
    history = train(
        ctx,
        autoencoder.build,
        method,
        inputs,
        progress=report_progress(ctx, "autoencoder"),
        stage="train-autoencoder",
        measure=_measured(ctx, method, held_out),
    )
    method.state.ema["model"].copy_to(method.model)
    write_history(ctx, history)
    write_incidents(ctx, method.state)


def _held_out(ctx: StageContext, method: AutoencoderMethod, device: torch.device) -> list[Tensor]:
    """The images of the test split, per size. Raises GateError where any split has none."""
    shards = ctx.inputs["shard"]
    others = {name: split_images(shards, name, device, MEASURED) for name in SPLITS_IN_ORDER[1:]}
    counts = {name: sum(map(len, parts)) for name, parts in others.items()}
    counts = {SPLITS_IN_ORDER[0]: len(method.images), **counts}
    if not all(counts.values()):  # the validation split is the next stages': say it now
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise GateError(
            f"a split has no images ({found}): the sources have too few unrelated groups to hold "
            "any out; add images, or raise shard.test_fraction or shard.val_fraction"
        )
    return others["test"]


def _measured(
    ctx: StageContext, method: AutoencoderMethod, held_out: Sequence[Tensor]
) -> Measure | None:
    """Reconstructions on the way, where the recipe asks for them."""
    if not method.config.validate_every:
        return None
    board = tensorboard(ctx, "autoencoder")
    few = [part[: max(1, _WATCHED // len(held_out))] for part in held_out]

    def measure(step: int) -> Mapping[str, float]:
        with method.state.ema["model"].applied(method.model):
            rebuilt = [reconstruct(method.model, part) for part in few]
        rows = [_pictures(images)[:_SHOWN] for images in (few, rebuilt)]
        sheet = contact_sheet(rows, row_labels=["held out", "rebuilt"], cell=96)
        ctx.report.image("autoencoder-reconstructions", sheet, f"after {step:,} steps")
        board.picture(step, "autoencoder/reconstructions", sheet)
        return {"val_psnr": float(torch.cat(list(map(psnr, rebuilt, few))).mean())}

    return Measure(method.config.validate_every, measure)


def _measure(
    ctx: StageContext, method: AutoencoderMethod, images: Tensor, held_out: Sequence[Tensor]
) -> None:
    """Held-out quality with a card for every number, latent health, and pictures."""
    scale, shift = method.model.scale, method.model.shift
    backbone = NAMES[method.config.perceptual]
    rebuilt = [reconstruct(method.model, part) for part in held_out]
    decibels = torch.cat(list(map(psnr, rebuilt, held_out)))
    similar = [
        ssim(_channels_last(one), _channels_last(other))
        for one, other in zip(held_out, rebuilt, strict=True)
    ]
    quality = {
        "psnr_held_out": float(decibels.mean()),
        "psnr_train": float(psnr(reconstruct(method.model, images[:512]), images[:512]).mean()),
        "ssim_held_out": float(np.mean(np.concatenate(similar))),
        "latent_scale": scale,
        "latent_shift": shift,
    }
    assert method.features is not None
    found = cards(
        held_out,
        rebuilt,
        quality["psnr_held_out"],
        quality["ssim_held_out"],
        method.features,
        backbone,
        method.config.perceptual_levels,
    )
    quality |= {f"{card.name}_held_out": card.value for card in found if card.backbone != "none"}
    for name, value in quality.items():
        ctx.output.metric(name, value)
    ctx.output.add_json("cards.json", [asdict(card) for card in found])
    ctx.report.table("autoencoder-metrics", [asdict(card) for card in found])
    most = max(held_out, key=len)
    with torch.no_grad():
        few = most[: 2 * images_at_once(most)]
        latents = method.model.encode(few.float() / 127.5 - 1).float()
    health = {**quality, "perceptual_backbone": backbone, **latent_health(latents)}
    ctx.output.add_json("health.json", health)
    order = torch.argsort(decibels).tolist()
    picks = order[:: max(1, len(order) // _SHOWN)][:_SHOWN]
    rows = [[pictures[i] for i in picks] for pictures in map(_pictures, (held_out, rebuilt))]
    sheet = contact_sheet(rows, row_labels=["held out", "rebuilt"], cell=96)
    ctx.output.add_bytes("reconstructions.png", sheet)
    ctx.report.image("autoencoder-reconstructions", sheet, "held-out images, worst PSNR first")
    speed = ""
    if method.state.step:
        estimate = partial(estimate_autoencoder, method.config, method.size)
        speed = report_speed(ctx, "autoencoder", method.state, estimate)
    ctx.report.markdown(
        "autoencoder-summary",
        f"Held-out PSNR **{quality['psnr_held_out']:.2f} dB**, SSIM "
        f"{quality['ssim_held_out']:.3f}, LPIPS {quality['lpips_held_out']:.4f}, rFID "
        f"{quality['rfid_held_out']:.2f} ({backbone}) on {len(decibels)} images; scale "
        f"{scale:.4f}, shift {shift:.4f}. {speed}",
    )


def _pictures(images: Sequence[Tensor]) -> list[Pixels]:
    """Each picture of tensors per size."""
    return [picture for part in images for picture in _channels_last(part)]


def _channels_last(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return images.permute(0, 2, 3, 1).cpu().contiguous().numpy()
