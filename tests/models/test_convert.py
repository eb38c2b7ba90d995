from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kontext.errors import WeightsError
from kontext.models.autoencoder import Autoencoder
from kontext.models.convert import (
    export_diffusers,
    from_diffusers,
    load_weights,
    open_weights,
    read_autoencoder_config,
    read_transformer_config,
    rules_for,
    to_diffusers,
    transformer_config,
)
from kontext.models.transformer import FluxTransformer
from schemas.recipes import AutoencoderShape, TransformerShape

SHAPE = TransformerShape(
    in_channels=16,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=16,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(4, 2, 2),
)
AE_SHAPE = AutoencoderShape(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, norm_groups=4)


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


def test_diffusers_loads_our_export_and_we_load_it_back(tmp_path: Path) -> None:
    model, ae = FluxTransformer(SHAPE), Autoencoder(AE_SHAPE, scale=0.7, shift=-0.2)
    model.load_state_dict(filled(model))
    ae.load_state_dict(filled(ae))
    export_diffusers(model, ae, tmp_path)
    theirs, report = FluxTransformer2DModel.from_pretrained(
        tmp_path / "transformer", output_loading_info=True
    )
    assert not any(report.values())
    assert bits(theirs.state_dict()) == bits(to_diffusers(model.state_dict(), rules_for(model)))
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert vae.config.scaling_factor == 0.7
    assert vae.config.shift_factor == -0.2

    config = json.loads((tmp_path / "transformer/config.json").read_text())
    assert read_transformer_config(config) == SHAPE
    with torch.device("meta"):
        again = FluxTransformer(SHAPE)
    load_weights(again, tmp_path / "transformer")
    assert bits(again.state_dict()) == bits(model.state_dict())
    ae_again = read_autoencoder_config(json.loads((tmp_path / "vae/config.json").read_text()))
    load_weights(ae_again, tmp_path / "vae")
    assert bits(ae_again.state_dict()) == bits(ae.state_dict())
    assert (ae_again.scale, ae_again.shift, ae_again.shape) == (0.7, -0.2, AE_SHAPE)


def test_loads_a_bfl_file_and_a_sharded_folder_in_the_dtype_asked_for(tmp_path: Path) -> None:
    model = FluxTransformer(SHAPE)
    state = filled(model)
    save_file(state, tmp_path / "flux.safetensors")
    load_weights(model, tmp_path / "flux.safetensors", torch.bfloat16)
    assert model.img_in.weight.dtype == torch.bfloat16
    assert torch.equal(model.img_in.weight, state["img_in.weight"].bfloat16())

    folder = tmp_path / "sharded"
    folder.mkdir()
    theirs = to_diffusers(state, rules_for(model))
    names = sorted(theirs)
    index = {}
    for i, part in enumerate((names[:9], names[9:])):
        save_file({n: theirs[n] for n in part}, folder / f"model-{i}.safetensors")
        index.update(dict.fromkeys(part, f"model-{i}.safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    again = load_weights(FluxTransformer(SHAPE), folder)
    assert bits(again.state_dict()) == bits(state)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-1\.safetensors"):
        load_weights(FluxTransformer(SHAPE), folder)


def test_one_error_lists_every_wrong_key(tmp_path: Path) -> None:
    model = FluxTransformer(SHAPE)
    state = filled(model)
    del state["img_in.bias"], state["txt_in.bias"]
    state["double_blocks.7.extra"] = torch.zeros(1)
    state["vector_in.in_layer.weight"] = torch.zeros(16, 7)
    save_file(state, tmp_path / "bad.safetensors")
    before = bits(model.state_dict())
    with pytest.raises(WeightsError) as caught:
        load_weights(model, tmp_path / "bad.safetensors")
    text = str(caught.value)
    assert "2 missing: img_in.bias, txt_in.bias" in text
    assert "1 surplus: double_blocks.7.extra" in text
    assert "1 misshapen: vector_in.in_layer.weight [16, 7] for [16, 6]" in text
    assert "\n" not in text
    assert bits(model.state_dict()) == before


def test_damaged_foreign_and_missing_files_are_clear_errors(tmp_path: Path) -> None:
    model = FluxTransformer(SHAPE)
    good = tmp_path / "good.safetensors"
    save_file(filled(model), good)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-100])
    other = tmp_path / "other.safetensors"
    save_file({"unet.conv.weight": torch.zeros(1)}, other)
    for path, words in (
        (cut, "cannot be read"),
        (other, "neither"),
        (tmp_path / "absent", "no weights"),
    ):
        with pytest.raises(WeightsError, match=words):
            load_weights(model, path)


def test_reading_does_not_touch_the_bytes(tmp_path: Path) -> None:
    model = FluxTransformer(SHAPE)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    with open_weights(tmp_path / "w.safetensors") as weights:
        assert weights.layout == "bfl"
        assert weights.shape("img_in.weight") == (16, 16)
        assert bits(dict(weights)) == bits(load_file(tmp_path / "w.safetensors"))


def test_shapes_diffusers_cannot_hold_are_refused() -> None:
    with pytest.raises(WeightsError, match="mlp_ratio"):
        transformer_config(SHAPE.model_copy(update={"mlp_ratio": 3.0}))
