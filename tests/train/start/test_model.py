"""What training begins with: adapters beside weights that are quantised as they are read."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kontext.errors import WeightsError
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraLinear, adapters, merge
from kontext.models.qlora.linear import QuantizedLinear, full_weight
from kontext.models.qlora.schemes import Scheme
from kontext.parallel.ranks.inputs import Inputs
from kontext.parallel.world import World
from kontext.train.methods.flow import FlowMethod
from kontext.train.start.model import START, starting_model
from tests.train.toy import SHAPE, toy_config, toy_model, toy_pairs

SCHEMES = get_args(Scheme)
FP32 = {"precision": "fp32"}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(toy_model(std=0.2).state_dict(), path)
    return path


def built(path: Path, **changes: object) -> FlowMethod:
    """Adapters on the stored weights, in float32."""
    values = {"optimizer": "adamw", "lora_rank": 4, "parallel": FP32, "t2i_steps": 0}
    config, data = toy_config(**{**values, **changes}), toy_pairs()
    inputs = Inputs({}, "", path.parent, path.parent, {START: path})
    model, start = starting_model(config, inputs, data, World())
    return FlowMethod(config, data, model, World(), start)


def in_full(model: FluxTransformer) -> FluxTransformer:
    """The same with the weights that its quantised ones stand for."""
    for name, layer in [*model.named_modules()]:
        scheme = getattr(layer, "scheme", None)
        if not scheme:
            continue
        assert isinstance(layer, LoraLinear | QuantizedLinear)
        plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        plain.weight = nn.Parameter(full_weight(layer, scheme, torch.float32))
        plain.bias = layer.bias
        made: nn.Linear = plain
        if isinstance(layer, LoraLinear):
            made = LoraLinear(plain, layer.lora_down.data, layer.lora_up.data, layer.scale)
        made.requires_grad_(False)
        for part in ("lora_down", "lora_up"):
            if isinstance(made, LoraLinear):
                getattr(made, part).requires_grad_(True)
        model.set_submodule(name, made)
    return model


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_linear_layers_of_the_blocks_are_quantised_and_no_others(
    scheme: Scheme, stored: Path
) -> None:
    """Also those without an adapter."""
    model = built(stored, lora_base=scheme, lora_targets=("*.linear1",)).model
    quantised = {n for n, m in model.named_modules() if getattr(m, "scheme", None) == scheme}
    assert len(quantised) == 8 * SHAPE.depth + 2 * SHAPE.depth_single_blocks
    assert set(adapters(model)) == {f"single_blocks.{i}.linear1" for i in (0, 1)} < quantised
    plain = {n for n, m in model.named_modules() if type(m) is nn.Linear}
    assert {"img_in", "final_layer.linear", "single_blocks.0.modulation.lin"} <= plain
    assert not any("_attn." in name or "_mlp." in name for name in plain)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_adapters_have_the_gradients_of_the_weights_that_the_quantised_ones_stand_for(
    scheme: Scheme, stored: Path
) -> None:
    found = []
    for change in (lambda model: model, in_full):
        method = built(stored, lora_base=scheme)
        method.model = change(method.model)
        for layer in adapters(method.model).values():
            nn.init.normal_(layer.lora_up, std=0.1, generator=torch.Generator().manual_seed(1))
        method._backward(0, method.pairs_at(0))
        found.append({k: p.grad for k, p in method.model.named_parameters() if p.requires_grad})
    quantised, full = found
    assert quantised.keys() == full.keys() and len(full) == 2 * len(adapters(method.model))
    for name, gradient in full.items():
        assert gradient is not None and gradient.any()
        torch.testing.assert_close(quantised[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_training_beside_it_lowers_the_loss(scheme: Scheme, stored: Path) -> None:
    method = built(stored, lora_base=scheme, joint_steps=25, ema_decay=0.0, lr=3e-2)
    data = toy_pairs()
    before = method.validation_losses(data)["val_loss"]
    for index in range(method.total_steps):
        method.step(index)
    assert method.validation_losses(data)["val_loss"] < 0.9 * before


@pytest.mark.parametrize(("recompute", "offload"), [("selective", False), ("full", True)])
def test_recomputed_and_offloaded_it_takes_the_same_steps(
    recompute: str, offload: bool, stored: Path
) -> None:
    parallel = {**FP32, "recompute": recompute, "offload": offload}
    plain, other = built(stored, lora_base="nf4"), built(stored, lora_base="nf4", parallel=parallel)
    for index in range(3):
        assert plain.step(index) == other.step(index)


def test_adapters_are_not_merged_into_quantised_weights(stored: Path) -> None:
    with pytest.raises(WeightsError, match="not merged into nf4 weights"):
        merge(built(stored, lora_base="nf4").model)
