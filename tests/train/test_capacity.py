"""The planner's numbers against what really happens, and its advice at the edges."""

import re

import pytest
import torch

from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import BLOCKS, LoraConfig, apply_lora, linear_layers
from kontext.parallel.flops import Tokens
from kontext.train import capacity as planner
from kontext.train.capacity import Machine, activations, compared, estimates
from kontext.train.ladd.formulas import ladd_flops
from kontext.train.methods.autoencoder import codec_work
from schemas.recipes import load_recipe
from schemas.sections.models import TransformerShape
from schemas.sections.training import ParallelConfig

SHAPE = TransformerShape(
    in_channels=16,
    vec_in_dim=8,
    context_in_dim=16,
    hidden_size=96,
    num_heads=3,
    depth=2,
    depth_single_blocks=3,
    axes_dim=(8, 12, 12),
    guidance_embed=False,
)


def kept(side: int, text: int = 20, batch: int = 2, rank: int = 0) -> int:
    """What autograd really keeps of a forward pass at another width, depth, length and batch."""
    torch.manual_seed(0)
    model, n = FluxTransformer(SHAPE), side**2
    if rank:
        apply_lora(model.to(torch.bfloat16), LoraConfig(rank=rank))
    own = {p.data_ptr() for p in model.parameters()}
    inputs = torch.randn(batch, 2 * n, 16), sequence_ids((side, side), [(side, side)])
    words = torch.randn(batch, text, 16), torch.randn(batch, 8), torch.rand(batch)
    with planner._saved(own) as held, torch.autocast("cpu", torch.bfloat16):
        out = model(*inputs, *words, target_length=n)
    del out
    return sum(held.values())


@pytest.mark.parametrize("rank", [0, 2])
def test_activations_are_those_that_autograd_keeps(rank: int) -> None:
    # what does not grow with tokens are copies of weights
    grown = kept(14, rank=rank) - kept(6, rank=rank)
    tokens = 2 * 2 * (14**2 - 6**2)
    within = 0.15 if rank else 0.1  # small layers' adapters are larger beside them
    assert grown / tokens == pytest.approx(activations(SHAPE, "none", rank=rank), rel=within)


def test_adapters_take_little_beside_a_base_of_16_bits() -> None:
    """FLUX.1-dev with adapters of rank 16 fits one GPU of 80 GB; all of it does not."""
    recipe, machine = flux(batch=1), Machine(1, 80.0)
    section = recipe.finetune.model_copy(update={"lora_rank": 16})  # type: ignore[attr-defined]
    adapted = estimates(recipe.model_copy(update={"finetune": section}), machine)[1]  # type: ignore[attr-defined]
    whole = estimates(recipe, machine)[1]  # type: ignore[arg-type]
    with torch.device("meta"):
        model = apply_lora(FluxTransformer(TransformerShape()), LoraConfig(rank=16))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapted.parameters == whole.parameters + trained
    assert adapted.state_gib == pytest.approx((2 * whole.parameters + 20 * trained) / 2**30)
    assert 2 / 3 < adapted.flops / whole.flops < 0.8  # attention's backward pass stays
    recomputed = ParallelConfig(recompute="full")
    section = section.model_copy(update={"parallel": recomputed})
    assert estimates(recipe.model_copy(update={"finetune": section}), machine)[1].fits  # type: ignore[attr-defined]
    assert "the state alone is too large" in whole.advice


def test_a_quantised_base_takes_the_bytes_of_its_scheme_on_every_gpu() -> None:
    """FLUX.1-dev: 8.6 of 11.9 billion weights are in linear layers of blocks; the others bf16."""
    recipe = flux(batch=1)

    def state(base: str, gpus: int) -> float:
        changes = {"lora_rank": 16, "lora_base": base}
        section = recipe.finetune.model_copy(update=changes)  # type: ignore[attr-defined]
        made = recipe.model_copy(update={"finetune": section})  # type: ignore[attr-defined]
        return estimates(made, Machine(gpus, 80.0))[1].state_gib

    with torch.device("meta"):
        model = FluxTransformer(TransformerShape())
    names = linear_layers(model, BLOCKS)
    weights = sum(model.get_parameter(f"{name}.weight").numel() for name in names)
    full = 2 * 3072 * 7 * 3072  # the largest layer, in bf16, while it is at work
    saved = state("stored", 1) - state("int8", 1)
    assert saved == pytest.approx((weights - full) / 2**30, rel=1e-3)
    saved = state("int8", 1) - state("nf4", 1)
    assert saved == pytest.approx(weights * (1 - 0.516) / 2**30, rel=3e-3)  # scales of rows
    assert state("nf4", 8) == state("nf4", 1) < 13


def test_recomputing_keeps_less_and_less() -> None:
    none, selective, full = (activations(TransformerShape(), mode) for mode in planner.MODES)
    assert full < selective < none
    # 57 inputs of 3,072 numbers and one block's own
    assert 57 * 3072 * 4 < full < 57 * 3072 * 4 + 100 * 3072


def test_parameters_operations_and_steps_of_a_recipe() -> None:
    codec, flow, ladd = estimates(load_recipe("ci"), Machine(1, 80))
    shape = load_recipe("ci").finetune.shape
    assert flow.parameters == sum(p.numel() for p in FluxTransformer(shape).parameters())
    assert (codec.steps, flow.steps, ladd.steps) == (20, 18, 6)
    assert flow.step_seconds == pytest.approx(flow.flops / (989e12 * 0.4))
    assert flow.days == pytest.approx(flow.step_seconds * 18 / 86_400)


def test_an_unknown_device_has_no_time() -> None:
    for stage in estimates(load_recipe("ci"), Machine(1, 80, "some laptop")):
        assert stage.step_seconds is None and stage.days is None and stage.memory_gib > 0


def flux(batch: int = 8) -> object:
    recipe = load_recipe("h200", (f"finetune.batch={batch}", "finetune.optimizer=adamw"))
    section = recipe.finetune.model_copy(update={"shape": TransformerShape()})
    return recipe.model_copy(
        update={
            "finetune": section,
            "ingest": recipe.ingest.model_copy(update={"resolution": 1024}),
            "encode": recipe.encode.model_copy(update={"text_length": 512}),
        }
    )


@pytest.mark.parametrize(
    ("gpus", "memory", "told"),
    [
        (8, 100.0, "recompute=selective"),
        (8, 45.0, "recompute=full"),
        (2, 80.0, "more GPUs than 2"),
        (64, 139.0, "fits as it is"),
    ],
)
def test_it_says_which_switch_to_flip(gpus: int, memory: float, told: str) -> None:
    _, flow, _ = estimates(flux(), Machine(gpus, memory))  # type: ignore[arg-type]
    assert told in flow.advice
    assert flow.fits == ("fits" in told)


def test_accumulation_sharing_and_offloading_keep_less() -> None:
    recipe = flux(batch=64)
    _, plain, _ = estimates(recipe, Machine(8, 139.0))  # type: ignore[arg-type]
    changes = [
        ({"accumulate": 4}, 1 / 4),
        ({"parallel": recipe.finetune.parallel.model_copy(update={"context": 2})}, 1.0),  # type: ignore[attr-defined]
    ]
    for change, share in changes:
        section = recipe.finetune.model_copy(update=change)  # type: ignore[attr-defined]
        other = estimates(recipe.model_copy(update={"finetune": section}), Machine(8, 139.0))[1]  # type: ignore[attr-defined]
        assert other.activations_gib == pytest.approx(share * plain.activations_gib)
    parallel = recipe.finetune.parallel.model_copy(update={"offload": True})  # type: ignore[attr-defined]
    section = recipe.finetune.model_copy(update={"parallel": parallel})  # type: ignore[attr-defined]
    away = estimates(recipe.model_copy(update={"finetune": section}), Machine(8, 139.0))[1]  # type: ignore[attr-defined]
    assert away.activations_gib < plain.activations_gib / 30  # of 57 blocks


def test_where_recomputing_is_not_enough_a_batch_is_to_be_accumulated() -> None:
    _, flow, _ = estimates(flux(batch=512), Machine(8, 45.0))  # type: ignore[arg-type]
    told = re.fullmatch(r"set .*recompute=full and finetune\.accumulate=(\d+)", flow.advice)
    assert told is not None
    section = flux(batch=512).finetune.model_copy(  # type: ignore[attr-defined]
        update={
            "accumulate": int(told[1]),
            "parallel": ParallelConfig(recompute="full"),
        }
    )
    again = flux(batch=512).model_copy(update={"finetune": section})  # type: ignore[attr-defined]
    assert estimates(again, Machine(8, 45.0))[1].fits


def test_ladd_too_is_told_to_accumulate_and_fits_then() -> None:
    recipe = flux()
    many = recipe.distill.model_copy(update={"batch": 512})  # type: ignore[attr-defined]
    machine = Machine(8, 60.0)
    *_, ladd = estimates(recipe.model_copy(update={"distill": many}), machine)  # type: ignore[attr-defined]
    told = re.fullmatch(r"set .*recompute=full and distill\.accumulate=(\d+)", ladd.advice)
    assert told is not None, ladd.advice
    changes = {"accumulate": int(told[1]), "parallel": ParallelConfig(recompute="full")}
    parts = many.model_copy(update=changes)
    assert estimates(recipe.model_copy(update={"distill": parts}), machine)[2].fits  # type: ignore[attr-defined]
    parts = many.model_copy(update={**changes, "accumulate": int(told[1]) - 1})
    assert not estimates(recipe.model_copy(update={"distill": parts}), machine)[2].fits  # type: ignore[attr-defined]


def test_light_moments_take_less_state() -> None:
    sizes = {}
    for name in ("adamw", "adamw-bf16", "adamw-8bit"):
        recipe = load_recipe("h200", (f"finetune.optimizer={name}",))
        sizes[name] = estimates(recipe, Machine(1, 139.0))[1].state_gib
    assert sizes["adamw-8bit"] < sizes["adamw-bf16"] < sizes["adamw"]


def test_the_teacher_is_sharded_beside_the_student() -> None:
    one, eight = (estimates(load_recipe("h200"), Machine(n, 139.0))[2] for n in (1, 8))
    assert eight.state_gib == pytest.approx(one.state_gib / 8)
    assert eight.activations_gib == pytest.approx(one.activations_gib / 8)


def test_more_gpus_take_less_each_and_less_time() -> None:
    one, eight = (estimates(load_recipe("h200"), Machine(n, 139.0))[1] for n in (1, 8))
    assert eight.state_gib < one.state_gib / 4 and eight.activations_gib < one.activations_gib / 7
    assert one.step_seconds == pytest.approx(8 * (eight.step_seconds or 0))


def test_prediction_and_measurement_stand_side_by_side() -> None:
    _, flow, _ = estimates(load_recipe("ci"), Machine(1, 80))
    row = compared(flow, {"step_seconds": 0.5, "step_memory_mib": 2048.0})
    assert row["measured_step_seconds"] == 0.5 and row["measured_memory_gib"] == 2.0
    assert row["predicted_step_seconds"] == flow.step_seconds
    assert compared(flow, {})["measured_memory_gib"] is None


def test_ladd_at_full_size_is_the_published_estimate() -> None:
    # shared estimate for one sample at 1024 x 1024: 1.4 PFLOP with R1's pass left out
    config = load_recipe("demo").distill.model_copy(update={"batch": 2, "r1_weight": 0.0})
    found = ladd_flops(config, TransformerShape(), Tokens(512, 4096, 4096)) / 2
    assert 1.3e15 < found < 1.8e15
    nearer = config.model_copy(update={"taps": (19 + 18,)})
    assert ladd_flops(nearer, TransformerShape(), Tokens(512, 4096, 4096)) / 2 < 0.85 * found
    again = config.model_copy(update={"r1_weight": 0.1})
    assert ladd_flops(again, TransformerShape(), Tokens(512, 4096, 4096)) / 2 > found


def test_a_fake_score_takes_the_memory_of_weights_that_have_no_averages() -> None:
    machine, recipe = Machine(1, 80), load_recipe("ci")
    *_, ladd = estimates(recipe, machine)
    method = recipe.distill.model_copy(update={"method": "dmd2"})
    *_, dmd2 = estimates(recipe.model_copy(update={"distill": method}), machine)
    more = (dmd2.state_gib - ladd.state_gib) * 2**30
    assert more == pytest.approx((4 + 4 + 8) * ladd.parameters)
    assert dmd2.flops > ladd.flops


def test_codec_work_grows_where_losses_join() -> None:
    config = load_recipe("demo").autoencoder
    work = codec_work(config, (64, 64))
    plain, seen, judged = (
        work(step).flops or 0 for step in (0, config.perceptual_start, config.disc_start)
    )
    assert 0 < plain < seen < judged
    assert work(0).tokens == config.batch * 16
    assert (codec_work(config, (128, 128))(0).flops or 0) > 3.9 * plain
