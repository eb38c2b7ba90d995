import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig as PeftConfig
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from kontext.errors import WeightsError
from kontext.models.files.convert import rules_for, to_diffusers, transformer_config
from kontext.models.files.lora_files import extract, load_lora, save_lora
from kontext.models.files.lora_keys import LoraLayout
from kontext.models.files.weights import bfl_entries, state_entries, write_weights
from kontext.models.flux.sequence import sequence_ids
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import (
    Lora,
    LoraConfig,
    adapters,
    apply_lora,
    lora_of,
    merge,
)
from tests.edit.tiny_flux import SHAPE, fill, forward_inputs

EVERYTHING = ("*",)


def model(seed: int = 0) -> FluxTransformer:
    made = FluxTransformer(SHAPE)
    fill(made, seed)
    return made.eval()


def trained(made: FluxTransformer) -> list[Parameter]:
    return [p for p in made.parameters() if p.requires_grad]


def plus(made: FluxTransformer, lora: Lora) -> FluxTransformer:
    """The model with adapters in its weights."""
    made.load_state_dict({e.name: e.read() for e in lora.merged(state_entries(made.state_dict()))})
    return made


def with_adapters(config: LoraConfig) -> FluxTransformer:
    """A model whose adapters do something."""
    made = apply_lora(model(), config)
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in trained(made):
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return made


def ours(made: FluxTransformer) -> Tensor:
    given = forward_inputs()
    tokens, text, pooled, times = (given[k] for k in ("tokens", "text", "pooled", "timesteps"))
    ids = sequence_ids((4, 4), [(2, 2)])
    out: Tensor = made(
        tokens, ids, text, pooled, times, target_length=16, guidance=given["guidance"]
    )
    return out


def theirs(made: FluxTransformer2DModel) -> Tensor:
    given = forward_inputs()
    out: Tensor = made(
        hidden_states=given["tokens"],
        encoder_hidden_states=given["text"],
        pooled_projections=given["pooled"],
        timestep=given["timesteps"],
        guidance=given["guidance"],
        img_ids=sequence_ids((4, 4), [(2, 2)]).float(),
        txt_ids=torch.zeros(5, 3),
        return_dict=False,
    )[0]
    return out[:, :16]


def diffusers_model() -> FluxTransformer2DModel:
    config = {k: v for k, v in transformer_config(SHAPE).items() if k[0] != "_"}
    made = FluxTransformer2DModel(**config).eval()
    source = model()
    made.load_state_dict(to_diffusers(source.state_dict(), rules_for(source)))
    return made


def test_a_plain_loop_trains_the_adapters_and_nothing_else() -> None:
    made = model()
    before = {k: v.clone() for k, v in made.state_dict().items()}
    first = ours(made).detach()
    apply_lora(made, LoraConfig(rank=2))
    assert torch.equal(ours(made), first)  # B starts at zero
    wanted = first + torch.randn(first.shape, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(trained(made), lr=2e-2)
    losses = []
    for _ in range(30):
        loss = (ours(made) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    after = made.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert len(trained(made)) == 2 * len(adapters(made))
    assert set(after) - set(before) == {
        f"{name}.lora_{half}" for name in adapters(made) for half in ("up", "down")
    }


def test_targets_are_the_blocks_linear_layers_save_modulation() -> None:
    names = set(adapters(apply_lora(model(), LoraConfig())))
    block = {f"{s}_{part}" for s in ("img", "txt") for part in ("attn.qkv", "attn.proj", "mlp.0")}
    assert {n.removeprefix("double_blocks.0.") for n in names} >= block
    assert {"single_blocks.1.linear1", "single_blocks.1.linear2"} <= names
    assert not any("mod" in name or "_in" in name or "final" in name for name in names)
    with pytest.raises(WeightsError, match="no linear layer"):
        apply_lora(model(), LoraConfig(targets=("nothing",)))
    with pytest.raises(WeightsError, match="rank"):
        apply_lora(model(), LoraConfig(rank=0))


def test_merging_keeps_the_output_and_leaves_plain_layers(tmp_path: Path) -> None:
    made = with_adapters(LoraConfig(rank=3, alpha=1.5, targets=EVERYTHING))
    lora, before = lora_of(made), ours(made)
    assert not torch.allclose(before, ours(model()), atol=1e-2)
    merge(made)
    assert not adapters(made) and set(made.state_dict()) == set(model().state_dict())
    assert torch.allclose(ours(made), before, atol=2e-5)
    # merged from file to file, the weights are the same bit for bit
    save_file(model().state_dict(), tmp_path / "base.safetensors")
    entries = bfl_entries(tmp_path / "base.safetensors", model())
    write_weights(tmp_path / "merged.safetensors", lora.merged(entries), {})
    merged = load_file(tmp_path / "merged.safetensors")
    assert all(torch.allclose(v, merged[k], atol=1e-7) for k, v in made.state_dict().items())


@settings(max_examples=8, deadline=None)
@given(
    st.integers(1, 5),
    st.sampled_from([None, 1.0, 6.0]),
    st.sampled_from(["bfl", "diffusers", "kohya"]),
    st.booleans(),
)
def test_files_hold_exactly_the_adapters(
    tmp_path_factory: pytest.TempPathFactory,
    rank: int,
    alpha: float | None,
    layout: LoraLayout,
    everything: bool,
) -> None:
    config = LoraConfig(rank, alpha, EVERYTHING) if everything else LoraConfig(rank, alpha)
    lora = lora_of(with_adapters(config))
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    with torch.device("meta"):
        empty = FluxTransformer(SHAPE)
    save_lora(lora, path, empty, layout)
    again = load_lora(path, empty)
    assert set(again.adapters) == set(lora.adapters)
    for key, (down, up) in lora.adapters.items():
        assert torch.equal(again.adapters[key][0], down)
        assert torch.equal(again.adapters[key][1], up)


def test_an_adapter_trained_by_peft_gives_their_output(tmp_path: Path) -> None:
    """peft trains q, k and v apart, each with its own A: ours become one block-diagonal adapter."""
    reference = diffusers_model()
    targets = ["to_q", "to_k", "to_v", "add_q_proj", "proj_mlp", "proj_out", "norm_out.linear"]
    reference.add_adapter(PeftConfig(r=4, lora_alpha=6, target_modules=targets))
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
    state = {f"transformer.{k}": v for k, v in get_peft_model_state_dict(reference).items()}
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4,
                                                     "transformer.lora_alpha": 6})}  # fmt: skip
    save_file(state, tmp_path / "peft.safetensors", metadata=metadata)
    lora = load_lora(tmp_path / "peft.safetensors", model())
    assert lora.adapters["double_blocks.0.img_attn.qkv.weight"][0].shape == (12, 32)
    assert lora.adapters["double_blocks.0.txt_attn.qkv.weight"][0].shape == (4, 32)  # q alone
    made = plus(model(), lora)
    expected = theirs(reference)
    assert (expected - theirs(diffusers_model())).abs().max() > 0.05
    assert (ours(made) - expected).abs().max() <= 2e-5

    # alpha as tensors, under kohya's names of the halves
    other = {}
    for key, value in state.items():
        other[key.replace("lora_A", "lora_down").replace("lora_B", "lora_up")] = value
        other[key.split(".lora_")[0] + ".alpha"] = torch.tensor(6.0)
    save_file(other, tmp_path / "alpha.safetensors")
    again = load_lora(tmp_path / "alpha.safetensors", model())
    assert all(torch.equal(again.adapters[k][1], v[1]) for k, v in lora.adapters.items())

    # and back to diffusers: each part has its own rank again
    save_lora(lora, tmp_path / "back.safetensors", model())
    back = load_file(tmp_path / "back.safetensors")
    assert set(back) == set(state)
    key = "transformer.transformer_blocks.0.attn.to_k.lora"
    assert torch.equal(back[f"{key}_A.weight"], state[f"{key}_A.weight"])
    assert torch.allclose(back[f"{key}_B.weight"], state[f"{key}_B.weight"] * 1.5)


def test_extraction_finds_the_adapters_of_a_merged_model() -> None:
    base = model()
    tuned = merge(with_adapters(LoraConfig(rank=2, targets=EVERYTHING)))
    whole = extract(base.state_dict(), tuned.state_dict(), base, rank=2)
    assert max(whole.lost.values()) < 1e-4
    assert torch.allclose(ours(plus(model(), whole)), ours(tuned), atol=1e-4)
    less = extract(base.state_dict(), tuned.state_dict(), base, rank=1)
    assert 0.05 < max(less.lost.values()) < 1
    with pytest.raises(WeightsError, match="nothing to extract"):
        extract(base.state_dict(), base.state_dict(), base, rank=1)


def test_extraction_says_what_adapters_cannot_hold() -> None:
    base, tuned = model(), model()
    with torch.no_grad():
        tuned.img_in.bias.add_(1)
        tuned.img_in.weight.add_(1)
    lora = extract(base.state_dict(), tuned.state_dict(), base, rank=1)
    assert set(lora.adapters) == {"img_in.weight"}
    assert lora.lost["img_in.bias"] == 1
    assert lora.lost["img_in.weight"] < 1e-5


def test_one_error_says_why_a_file_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    wide = SHAPE.model_copy(update={"hidden_size": 64, "axes_dim": (8, 12, 12), "depth": 3})
    save_lora(
        lora_of(apply_lora(FluxTransformer(wide), LoraConfig(rank=2))), path, FluxTransformer(wide)
    )
    with pytest.raises(WeightsError) as caught:
        load_lora(path, model())
    text = str(caught.value)
    assert "\n" not in text
    assert "transformer_blocks.0.attn.to_q [64, 2] x [2, 64] for [32, 32]" in text
    assert "surplus: " in text and "transformer_blocks.2.attn.to_q" in text
    a = torch.zeros(2, 32)
    for state, words in (
        ({"transformer.x_embedder.lora_A.weight": torch.zeros(2, 16)}, "has no lora_B"),
        (
            {"img_in.lora_B.bias": a, "img_in.lora_A.weight": a.clone()},
            r"surplus: img_in\.lora_B\.bias",
        ),
        ({"img_in.weight": a}, "holds no LoRA"),
    ):
        save_file(state, path)
        with pytest.raises(WeightsError, match=words):
            load_lora(path, model())
    dora = {"lora_adapter_metadata": json.dumps({"transformer.use_dora": True})}
    good = {"img_in.lora_A.weight": torch.zeros(2, 16), "img_in.lora_B.weight": torch.zeros(32, 2)}
    save_file(good, path, metadata=dora)
    with pytest.raises(WeightsError, match="DoRA"):
        load_lora(path, model())
    lora = lora_of(with_adapters(LoraConfig(rank=2)))
    with pytest.raises(WeightsError, match=r"for another model; .* misshapen"):
        lora.check(FluxTransformer(wide))
    with pytest.raises(WeightsError, match="merge it first"):
        apply_lora(with_adapters(LoraConfig(rank=2)), LoraConfig(rank=2))
