"""The planner's numbers by their parts, and its advice at the edges.

That memory is what is really taken is tested in `plan/test_memory.py`.
"""

import re
from typing import Any

import pytest
import torch

from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import BLOCKS, LoraConfig, apply_lora, linear_layers
from kontext.parallel.flops import Tokens
from kontext.train.capacity import (
    Estimate,
    Machine,
    compared,
    estimate_flow,
    estimate_student,
    estimates,
)
from kontext.train.ladd.formulas import ladd_flops
from kontext.train.methods.autoencoder import codec_work
from schemas.recipes import load_recipe
from schemas.sections.models import TransformerShape
from schemas.sections.training import FinetuneConfig

FEW = TransformerShape(depth=1, depth_single_blocks=1)  # FLUX.1's but for the number of blocks
MEGAPIXEL = Tokens(512, 4096, 4096)
TINY = TransformerShape(
    in_channels=16,
    vec_in_dim=64,
    context_in_dim=64,
    hidden_size=256,
    num_heads=4,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(16, 24, 24),
    guidance_embed=False,
)
SHORT = Tokens(8, 64, 64)


def section(shape: TransformerShape = FEW, **changes: Any) -> FinetuneConfig:
    values = {"shape": shape, "batch": 8, "optimizer": "adamw", "t2i_share": 0, "t2i_steps": 0}
    return FinetuneConfig.model_validate({**values, **changes})


def planned(gpus: int = 1, memory: float = 1e6, **changes: Any) -> Estimate:
    return estimate_flow(section(**changes), MEGAPIXEL, Machine(gpus, memory))


def test_adapters_take_little_beside_a_base_of_16_bits() -> None:
    adapted, whole = planned(lora_rank=16, batch=1), planned(batch=1)
    with torch.device("meta"):
        model = apply_lora(FluxTransformer(FEW), LoraConfig(rank=16))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert adapted.parameters == whole.parameters + trained
    held = (2 * whole.parameters + 20 * trained) / 2**30
    assert adapted.state_gib == pytest.approx(held, rel=1e-3)
    assert whole.state_gib == pytest.approx(20 * whole.parameters / 2**30, rel=1e-3)
    assert 2 / 3 < adapted.flops / whole.flops < 0.8  # attention's backward pass stays


def test_a_quantised_base_takes_the_bytes_of_its_scheme() -> None:
    stored, int8, nf4 = (
        planned(lora_rank=16, lora_base=base, batch=1) for base in ("stored", "int8", "nf4")
    )
    with torch.device("meta"):
        model = FluxTransformer(FEW)
    names = linear_layers(model, BLOCKS)
    weights = sum(model.get_parameter(f"{name}.weight").numel() for name in names)
    assert stored.state_gib - int8.state_gib == pytest.approx(weights / 2**30, rel=2e-3)
    assert int8.state_gib - nf4.state_gib == pytest.approx(weights * 0.484 / 2**30, rel=5e-3)


def test_parameters_operations_and_steps_of_a_recipe() -> None:
    codec, flow, ladd = estimates(load_recipe("ci"), Machine(1, 80))
    shape = load_recipe("ci").finetune.shape
    assert flow.parameters == sum(p.numel() for p in FluxTransformer(shape).parameters())
    assert (codec.steps, flow.steps, ladd.steps) == (20, 18, 6)
    assert flow.step_seconds == pytest.approx(flow.flops / (989e12 * 0.4))
    assert flow.days == pytest.approx(flow.step_seconds * 18 / 86_400)
    for stage in estimates(load_recipe("ci"), Machine(1, 80, "some laptop")):
        assert stage.step_seconds is None and stage.days is None and stage.memory_gib > 1.5


def test_it_says_which_switch_to_flip() -> None:
    asked, selective, full = (
        planned(parallel={"recompute": mode}) for mode in ("none", "selective", "full")
    )
    assert asked.fits and "fits as it is" in asked.advice
    assert asked.memory_gib > selective.memory_gib > full.memory_gib > full.state_gib + 1.5
    told = planned(memory=selective.memory_gib + 0.01)
    assert not told.fits and told.memory_gib == asked.memory_gib
    assert told.advice == (
        f"set finetune.parallel.recompute=selective: {selective.memory_gib:.1f} GiB then"
    )
    assert "parallel.recompute=full:" in planned(memory=full.memory_gib + 0.01).advice
    none = planned(memory=14 / 20 * asked.state_gib)  # less than what 8-bit moments hold
    assert none.advice == "the state alone is too large: more GPUs than 1"


def test_a_quantised_base_is_told_where_the_state_is_too_large() -> None:
    changes = {"lora_rank": 16, "lora_base": "int8", "parallel": {"recompute": "full"}}
    light = planned(batch=1, **changes)
    told = planned(memory=light.memory_gib + 0.01, batch=1, lora_rank=16)
    assert told.advice.startswith(
        "set finetune.lora_base=int8 and finetune.parallel.recompute=full:"
    ), told.advice


def test_a_batch_is_accumulated_in_as_few_parts_as_fit() -> None:
    four = planned(accumulate=4, parallel={"recompute": "full"})
    assert four.activations_gib < 0.6 * planned(parallel={"recompute": "full"}).activations_gib
    told = planned(memory=four.memory_gib + 0.01)
    found = re.fullmatch(
        r"set finetune\.parallel\.recompute=full and finetune\.accumulate=4: [\d.]+ GiB then",
        told.advice,
    )
    assert found is not None, told.advice


def test_sharing_a_sequence_keeps_less() -> None:
    plain = planned(8)
    shared = planned(8, batch=4, parallel={"context": 2})  # half of the tokens of as many rows
    assert shared.activations_gib < 0.7 * plain.activations_gib


def test_ladd_too_is_told_to_accumulate() -> None:
    config = load_recipe("ci").distill.model_copy(update={"batch": 4})

    def at(memory: float, **changes: Any) -> Estimate:
        other = config.model_copy(update=changes)
        return estimate_student(other, TINY, Tokens(8, 1024, 1024), Machine(1, memory))

    parallel = config.parallel.model_copy(update={"recompute": "full"})
    two = at(80.0, accumulate=2, parallel=parallel)
    told = at(two.memory_gib + 1e-4)
    assert "distill.parallel.recompute=full and distill.accumulate=2:" in told.advice, told.advice


def test_light_moments_take_less_state() -> None:
    at = {
        name: estimate_flow(section(TINY, optimizer=name), SHORT, Machine(1, 80.0)).state_gib
        for name in ("adamw", "adamw-bf16", "adamw-8bit")
    }
    assert at["adamw-8bit"] < at["adamw-bf16"] < at["adamw"]


def test_offloading_keeps_little_of_many_blocks() -> None:
    """Of 24 blocks those at work stay on the GPU; what one keeps waits in the host's memory."""
    many = TINY.model_copy(update={"depth": 8, "depth_single_blocks": 16})
    plain, away = (
        estimate_flow(
            section(many, parallel={"offload": offload}), Tokens(8, 1024, 1024), Machine(1, 80.0)
        )
        for offload in (False, True)
    )
    assert away.activations_gib < plain.activations_gib / 30
    assert away.state_gib == plain.state_gib


def test_more_gpus_take_less_each_and_less_time() -> None:
    one, eight = planned(1), planned(8)
    assert eight.state_gib == pytest.approx(one.state_gib / 8, rel=0.01)
    # an eighth of the rows; and blocks' weights that are gathered
    assert eight.activations_gib < one.activations_gib / 6
    assert one.step_seconds == pytest.approx(8 * (eight.step_seconds or 0))


def test_the_teacher_is_sharded_beside_the_student() -> None:
    config = load_recipe("ci").distill.model_copy(update={"batch": 8})
    one, eight = (estimate_student(config, TINY, SHORT, Machine(n, 80.0)) for n in (1, 8))
    count = one.parameters
    # student: weights, gradients, moments, averages; and the teacher; heads are held by each
    heads = one.state_gib - 24 * count / 2**30
    assert 0 < heads < 0.5 * one.state_gib
    assert eight.state_gib == pytest.approx(3 * count / 2**30 + heads, rel=0.02)


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
    config = load_recipe("ci").distill
    ladd, dmd2 = (
        estimate_student(config.model_copy(update={"method": name}), TINY, SHORT, Machine(1, 80))
        for name in ("ladd", "dmd2")
    )
    more = (dmd2.state_gib - ladd.state_gib) * 2**30
    assert more == pytest.approx((4 + 4 + 8) * ladd.parameters, rel=0.01)
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
