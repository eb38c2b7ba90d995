import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from hypothesis import given, settings
from hypothesis import strategies as st

from kontext.errors import WeightsError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.convert import (
    Rule,
    autoencoder_config,
    read_autoencoder_config,
    read_transformer_config,
    rules_for,
    scheduler_config,
    to_diffusers,
    transformer_config,
)
from kontext.models.flux.transformer import FluxTransformer
from kontext.train.flow.timesteps import FLUX_MU, Shift, schedule
from schemas.sections.models import AutoencoderShape
from tests.models.shapes import FLUX

SHAPE = FLUX
AE_SHAPE = AutoencoderShape(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, norm_groups=4)


def from_diffusers(state: dict[str, torch.Tensor], rules: list[Rule]) -> dict[str, torch.Tensor]:
    return {rule.bfl: rule.join([state[part] for part in rule.parts]) for rule in rules}


def bits(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {k: v.contiguous().view(torch.uint8).numpy().tobytes() for k, v in state.items()}


def filled(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {k: torch.randn(v.shape, generator=g).to(dtype) for k, v in model.state_dict().items()}


@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_transformer_round_trip_is_bit_identical(
    depth: int, single: int, guidance: bool, dtype: torch.dtype
) -> None:
    update = {"depth": depth, "depth_single_blocks": single, "guidance_embed": guidance}
    model = FluxTransformer(SHAPE.model_copy(update=update))
    state, rules = filled(model, dtype), rules_for(model)
    there = to_diffusers(state, rules)
    assert bits(from_diffusers(there, rules)) == bits(state)


def test_full_depth_names_are_those_of_diffusers() -> None:
    shape = SHAPE.model_copy(update={"depth": 19, "depth_single_blocks": 38})
    with torch.device("meta"):
        rules = rules_for(FluxTransformer(shape))
        config = {k: v for k, v in transformer_config(shape).items() if k[0] != "_"}
        reference = FluxTransformer2DModel(**config).state_dict()
    ours = {k: s for rule in rules for k, s in rule.part_shapes().items()}
    assert ours == {k: tuple(v.shape) for k, v in reference.items()}


def test_a_full_depth_model_goes_there_and_back_twice() -> None:
    """BFL → ours → diffusers → ours → BFL with 19 + 38 blocks, through diffusers' own modules."""
    model = FluxTransformer(SHAPE.model_copy(update={"depth": 19, "depth_single_blocks": 38}))
    bfl = filled(model, torch.bfloat16)
    model.load_state_dict(bfl)
    rules = rules_for(model)
    config = {k: v for k, v in transformer_config(model.shape).items() if k[0] != "_"}
    theirs = FluxTransformer2DModel(**config).to(torch.bfloat16)
    theirs.load_state_dict(to_diffusers(bfl, rules), strict=True)
    again = from_diffusers(theirs.state_dict(), rules)
    assert bits(again) == bits(bfl)
    assert bits(to_diffusers(again, rules)) == bits(theirs.state_dict())


FULL_AE = AutoencoderShape()  # FLUX.1's `ae.safetensors`


def bfl_autoencoder_keys() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of FLUX.1's `ae.safetensors`, written out from the published geometry.

    244 tensors: see black-forest-labs/flux `modules/autoencoder.py` (ch 128, mult 1, 2, 4, 4).
    """
    keys: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        keys[f"{name}.weight"], keys[f"{name}.bias"] = shape, shape[:1]

    def block(name: str, into: int, out: int) -> None:
        layer(f"{name}.norm1", into)
        layer(f"{name}.conv1", out, into, 3, 3)
        layer(f"{name}.norm2", out)
        layer(f"{name}.conv2", out, out, 3, 3)
        if into != out:
            layer(f"{name}.nin_shortcut", out, into, 1, 1)

    for side, ends in (("encoder", (3, 128, 512, 32)), ("decoder", (16, 512, 128, 3))):
        layer(f"{side}.conv_in", ends[1], ends[0], 3, 3)
        layer(f"{side}.norm_out", ends[2])
        layer(f"{side}.conv_out", ends[3], ends[2], 3, 3)
        for name in ("block_1", "block_2"):
            block(f"{side}.mid.{name}", 512, 512)
        layer(f"{side}.mid.attn_1.norm", 512)
        for name in ("q", "k", "v", "proj_out"):
            layer(f"{side}.mid.attn_1.{name}", 512, 512, 1, 1)
    for level, (into, out) in enumerate(((128, 128), (128, 256), (256, 512), (512, 512))):
        for i in range(2):
            block(f"encoder.down.{level}.block.{i}", into if i == 0 else out, out)
        if level < 3:
            layer(f"encoder.down.{level}.downsample.conv", out, out, 3, 3)
    for level, (into, out) in enumerate(((256, 128), (512, 256), (512, 512), (512, 512))):
        for i in range(3):
            block(f"decoder.up.{level}.block.{i}", into if i == 0 else out, out)
        if level > 0:
            layer(f"decoder.up.{level}.upsample.conv", out, out, 3, 3)
    return keys


def test_the_full_autoencoder_has_bfls_keys_and_diffusers_keys() -> None:
    with torch.device("meta"):
        ours = Autoencoder(FULL_AE)
        config = {k: v for k, v in autoencoder_config(ours).items() if k[0] != "_"}
        reference = AutoencoderKL(**config).state_dict()
    shapes = {k: tuple(v.shape) for k, v in ours.state_dict().items()}
    assert shapes == bfl_autoencoder_keys()
    assert len(shapes) == 244
    assert sum(v.numel() for v in ours.state_dict().values()) == 83_819_683
    theirs = {k: s for rule in rules_for(ours) for k, s in rule.part_shapes().items()}
    assert theirs == {k: tuple(v.shape) for k, v in reference.items()}


def test_autoencoder_round_trip_is_bit_identical() -> None:
    ae = Autoencoder(AE_SHAPE)
    state, rules = filled(ae), rules_for(ae)
    there = to_diffusers(state, rules)
    assert there["encoder.mid_block.attentions.0.to_q.weight"].shape == (16, 16)
    assert bits(from_diffusers(there, rules)) == bits(state)


def test_final_modulation_swaps_its_halves() -> None:
    model = FluxTransformer(SHAPE)
    state = filled(model)
    there = to_diffusers(state, rules_for(model))
    shift, scale = state["final_layer.adaLN_modulation.1.bias"].chunk(2)
    assert torch.equal(there["norm_out.linear.bias"], torch.cat((scale, shift)))


def test_shapes_diffusers_cannot_hold_are_refused() -> None:
    with pytest.raises(WeightsError, match="mlp_ratio"):
        transformer_config(SHAPE.model_copy(update={"mlp_ratio": 3.0}))


def test_configs_come_back() -> None:
    assert read_transformer_config(transformer_config(SHAPE)) == SHAPE
    ae = read_autoencoder_config(autoencoder_config(Autoencoder(AE_SHAPE, 0.7, -0.2)))
    assert (ae.scale, ae.shift, ae.shape) == (0.7, -0.2, AE_SHAPE)


@pytest.mark.parametrize("shift", [FLUX_MU, (3.0, 2.5)])
def test_the_exported_scheduler_samples_on_our_grid(shift: Shift) -> None:
    """The shift that diffusers computes from our file is `timesteps.schedule`'s, at all sizes."""
    shape = SHAPE.model_copy(update={"timestep_shift": shift})
    config = {k: v for k, v in scheduler_config(shape).items() if k[0] != "_"}
    assert read_transformer_config(transformer_config(shape), config) == shape
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    for tokens in (256, 1024, 4096, 4150):
        c = scheduler.config
        mu = calculate_shift(
            tokens, c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift
        )
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 28, 28), mu=mu)
        assert torch.allclose(scheduler.sigmas, schedule(28, tokens, shift), atol=1e-6)
