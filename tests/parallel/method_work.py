"""What the ranks of the tests of the autoencoder's and the students' methods do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from kontext.data.encoded.pair_tensors import PairTensors
from kontext.errors import RecipeError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.features.efficientnet import load_features
from kontext.models.precision import full_precision
from kontext.parallel.shard import shard
from kontext.parallel.world import World, full_tensor, is_sharded
from kontext.train.loop.fit import Measure, Method, fit
from kontext.train.methods.autoencoder import AutoencoderMethod
from kontext.train.methods.dmd2 import Dmd2Method
from kontext.train.methods.flow import FlowMethod
from kontext.train.methods.guidance import GuidanceMethod
from kontext.train.methods.ladd import LaddMethod
from kontext.train.methods.pictures import PictureMethod
from schemas.sections.models import AutoencoderShape
from schemas.sections.training import AutoencoderConfig, DistillConfig, ParallelConfig
from tests.train.broken_ladd import CONFIG, teacher
from tests.train.toy import toy_config, toy_model, toy_pairs

FP32 = ParallelConfig(precision="fp32")


def codec(world: World, **changes: Any) -> AutoencoderMethod:
    """All losses from the first steps on, and a decoder that learns to read noise."""
    shape = AutoencoderShape(ch=8, ch_mult=(1, 1, 1, 1), num_res_blocks=1, norm_groups=4)
    values: dict[str, Any] = {"shape": shape, "steps": 6, "batch": 5, "warmup": 1, "disc_start": 2}
    values |= {"perceptual_start": 1, "disc_channels": 8, "latent_noise_start": 4, "lr": 1e-3}
    config = AutoencoderConfig.model_validate({**values, "optimizer": "adamw", **changes})
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return AutoencoderMethod(config, images, load_features(), world=world)


def ladd(world: World, **changes: Any) -> LaddMethod:
    """A teacher, its student and heads; real edits are noise, which is as good for sums."""
    values = {**CONFIG, "steps": 5, "batch": 7, "heads_floor": 0.9, "parallel": FP32, **changes}
    data = toy_pairs()
    edits = data.edits()
    real = torch.randn(len(edits), 4, 4, 4, generator=torch.Generator().manual_seed(4))
    config = DistillConfig.model_validate(values)
    return LaddMethod(config, data, edits, real, teacher(), world)


def dmd2(world: World, **changes: Any) -> Dmd2Method:
    """A guided teacher, its student and its fake score, with heads."""
    values = {**CONFIG, "steps": 3, "batch": 7, "parallel": FP32, "lr_fake": 1e-4}
    values |= {"method": "dmd2", "dmd_fake_updates": 2, "gan_weight": 0.1, **changes}
    data = toy_pairs()
    edits = data.edits()
    real = torch.randn(len(edits), 4, 4, 4, generator=torch.Generator().manual_seed(4))
    config = DistillConfig.model_validate(values)
    return Dmd2Method(config, data, edits, real, teacher(), world)


def guided(world: World, **changes: Any) -> GuidanceMethod:
    """A student that learns its teacher's guidance."""
    settings = {"steps": 4, "low": 1.0, "high": 4.0, "batch": 7, "lr": 1e-3, "warmup": 1}
    config = toy_config(
        guidance_distill={**settings, **changes}, optimizer="adamw", text_dropout=0.1, parallel=FP32
    )
    return GuidanceMethod(config, toy_pairs(), teacher(), world)


def pictured(world: World, **changes: Any) -> PictureMethod:
    """A flow that is judged in the pictures of a random codec."""
    # Adam makes full steps of gradients that are rounding alone: small ones, so that none shows
    settings = {"steps": 4, "batch": 7, "lr": 1e-5, "warmup": 1, **changes}
    config = toy_config(pictures=settings, optimizer="adamw", mask_weight=2.0, parallel=FP32)
    torch.manual_seed(0)
    shape = AutoencoderShape(
        ch=8, ch_mult=(1, 2, 2, 2), num_res_blocks=1, z_channels=4, norm_groups=4
    )
    judge = Autoencoder(shape, 1.0, 0.0).requires_grad_(False).eval()
    model = toy_model()
    if world.size > 1:
        shard(model, FP32, world, torch.float32)
    return PictureMethod(config, toy_pairs(), model, judge, load_features(), world)


def trained(method: Method) -> dict[str, Any]:
    """History and whole weights, and which modules were sharded."""
    with full_precision():  # bf16 rounds a batch of three otherwise than one of five
        history = fit(method)
    modules = {**method.state.modules, "teacher": getattr(method, "teacher", torch.nn.Module())}
    return {
        "history": history,
        "weights": {
            f"{name}.{key}": full_tensor(value.detach())
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        },
        "sharded": {
            name: any(is_sharded(p) for p in module.parameters())
            for name, module in modules.items()
        },
    }


def measured(world: World) -> list[dict[str, float]]:
    """What a flow's validation finds on the way, and that it leaves no trace."""
    histories, rows = [], []
    for every in (0, 2):
        config = toy_config(optimizer="adamw", parallel=FP32, validate_pairs=2)
        method = FlowMethod(config, toy_pairs(), toy_model(), world)
        of = partial(_validated, method, toy_pairs(seed=5))
        histories.append(fit(method, measure=Measure(every, of)))
        rows = method.state.measured
    assert histories[0] == histories[1]
    return rows


def _validated(method: FlowMethod, held_out: PairTensors, _: int) -> dict[str, float]:
    return method.validation_losses(held_out)


def everything(world: World) -> dict[str, Any]:
    found: dict[str, Any] = {
        "codec": trained(codec(world)),
        "ladd": trained(ladd(world)),
        "accumulated": trained(ladd(world, accumulate=3)),
        "recomputed": trained(ladd(world, parallel=FP32.model_copy(update={"recompute": "full"}))),
        "dmd2": trained(dmd2(world)),
        "guidance": trained(guided(world)),
        "pictures": trained(pictured(world)),
        "measured": measured(world),
        "refused": [],
    }
    makers: tuple[Callable[..., Method], ...] = (codec, ladd, guided, pictured)
    for make in makers:
        try:
            make(world, batch=2 if make is ladd else 1)
        except RecipeError as error:
            found["refused"].append(str(error))
    return found
