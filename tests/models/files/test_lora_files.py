"""LoRA files of every style of keys, and what diffusers makes of ours."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kontext.errors import WeightsError
from kontext.models.files.convert import rules_for
from kontext.models.files.lora_files import extract, load_lora, read_info, save_lora
from kontext.models.files.lora_keys import LoraLayout, style_of
from kontext.models.files.weights import open_weights
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import Lora, LoraConfig, LoraInfo, lora_of, merge
from schemas.sections.models import TransformerShape
from tests.models.test_lora import (
    EVERYTHING,
    diffusers_model,
    model,
    ours,
    plus,
    theirs,
    with_adapters,
)

LAYOUTS: tuple[LoraLayout, ...] = ("diffusers", "bfl", "kohya")
HALVES = {"A": "down", "B": "up"}
TEXT_KEYS = (
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
    "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.lora_down.weight",
    "base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
)


def tensors(lora: Lora, layout: LoraLayout, folder: Path) -> dict[str, Tensor]:
    """The tensors of a file of ours."""
    save_lora(lora, folder / "made.safetensors", model(), layout)
    return load_file(folder / "made.safetensors")


def layers(state: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """(layer, A or B) -> tensor, of a file in diffusers' layout."""
    found = {}
    for key, tensor in state.items():
        layer, _, half = key.removeprefix("transformer.").partition(".lora_")
        found[layer, half[0]] = tensor
    return found


def fused(lora: Lora) -> dict[tuple[str, str], Tensor]:
    """The same of the adapters by BFL's names."""
    return {
        (key.removesuffix(".weight"), half): tensor
        for key, pair in lora.adapters.items()
        for half, tensor in zip("AB", pair, strict=True)
    }


def flat(name: str) -> str:
    return name.replace(".", "_")


Named = Callable[[str, str], str]
THEIRS: dict[str, Named] = {
    "diffusers": lambda layer, half: f"transformer.{layer}.lora_{half}.weight",
    "bare": lambda layer, half: f"{layer}.lora_{half}.weight",
    "peft": lambda layer, half: f"base_model.model.{layer}.lora_{half}.default.weight",
    "simpletuner": lambda layer, half: f"transformer.base_model.model.{layer}.lora_{half}.weight",
    "old": lambda layer, half: f"transformer.{layer}.lora.{HALVES[half]}.weight",
    "onetrainer": lambda layer, half: f"lora_transformer_{flat(layer)}.lora_{HALVES[half]}.weight",
}
BFL: dict[str, Named] = {
    "bare": lambda layer, half: f"{layer}.lora_{half}.weight",
    "fal": lambda layer, half: f"base_model.model.{layer}.lora_{half}.weight",
    "comfyui": lambda layer, half: f"diffusion_model.{layer}.lora_{HALVES[half]}.weight",
    "wrapped": lambda layer, half: f"model.diffusion_model.{layer}.lora_{half}.weight",
    "kohya": lambda layer, half: f"lora_unet_{flat(layer)}.lora_{HALVES[half]}.weight",
}


def assert_same(found: Lora, wanted: Lora) -> None:
    assert set(found.adapters) == set(wanted.adapters)
    for key, (down, up) in wanted.adapters.items():
        assert torch.equal(found.adapters[key][0], down), key
        assert torch.equal(found.adapters[key][1], up), key


@pytest.mark.parametrize(
    ("style", "bfl"), [*((name, False) for name in THEIRS), *((name, True) for name in BFL)]
)
def test_every_style_of_keys_gives_the_same_adapters(style: str, bfl: bool, tmp_path: Path) -> None:
    lora = lora_of(with_adapters(LoraConfig(rank=3, targets=EVERYTHING)))
    named = BFL[style] if bfl else THEIRS[style]
    given = fused(lora) if bfl else layers(tensors(lora, "diffusers", tmp_path))
    state = {named(*key): tensor for key, tensor in given.items()}
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    assert_same(load_lora(path, model()), lora)
    if bfl and style in ("comfyui", "kohya"):  # those styles have alpha: 1.5 of 3
        alphas = {key.split(".lora_")[0] + ".alpha": torch.tensor(1.5) for key in state}
        save_file({**state, **alphas}, path)
        assert_same(load_lora(path, model()), lora.scaled(0.5))


def test_xlabs_keys_are_the_attention_of_both_blocks(tmp_path: Path) -> None:
    config = LoraConfig(rank=2, targets=("*_attn.qkv", "*_attn.proj", "*.linear[12]"))
    lora = lora_of(with_adapters(config))
    names = {
        "img_attn.qkv": "qkv_lora1",
        "txt_attn.qkv": "qkv_lora2",
        "img_attn.proj": "proj_lora1",
        "txt_attn.proj": "proj_lora2",
        "linear1": "qkv_lora",
        "linear2": "proj_lora",
    }
    state, wanted = {}, dict(lora.adapters)
    for key, (down, up) in lora.adapters.items():
        kind, number, *layer = key.removesuffix(".weight").split(".")
        stem = f"{kind}.{number}.processor.{names['.'.join(layer)]}"
        rows = up.clone()
        if layer == ["linear1"]:  # theirs has no adapter of the MLP's part
            rows[96:] = 0
            wanted[key] = (down, rows)
            rows = up[:96]
        state[f"{stem}.down.weight"], state[f"{stem}.up.weight"] = down, rows.clone()
    save_file(state, tmp_path / "xlabs.safetensors")
    assert_same(load_lora(tmp_path / "xlabs.safetensors", model()), Lora(wanted))
    assert style_of(state) == "XLabs"


def test_text_encoders_are_left_out_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lora = lora_of(with_adapters(LoraConfig(rank=2)))
    text = {key: torch.ones(2, 2) for key in TEXT_KEYS}
    path = tmp_path / "both.safetensors"
    save_file({**tensors(lora, "kohya", tmp_path), **text}, path)
    with caplog.at_level(logging.WARNING):
        found = load_lora(path, model())
    assert_same(found, lora)
    assert found.skipped == tuple(sorted(TEXT_KEYS))
    assert "5 tensors for text encoders are left out" in caplog.text
    assert caplog.messages == found.notes()
    save_file(text, path)
    with pytest.raises(WeightsError, match="of text encoders alone"):
        load_lora(path, model())


def test_what_is_not_understood_is_named(tmp_path: Path) -> None:
    lora = lora_of(with_adapters(LoraConfig(rank=2)))
    good, path = tensors(lora, "kohya", tmp_path), tmp_path / "odd.safetensors"
    stem = "lora_unet_double_blocks_0_img_attn_proj"
    for odd, words in (
        ({"lora_unet_double_blocks_9_img_mlp_0.lora_down.weight": torch.ones(2, 2)}, "blocks_9"),
        ({"double_blocks.0.img_mlp.0.diff_b": torch.ones(2)}, r"img_mlp\.0\.diff_b"),
        ({f"{stem}.alpha": torch.ones(2)}, "alpha that is not one number"),
        ({"diffusion_model.double_blocks.0.img_attn.proj.lora_up.weight": torch.ones(32, 2),
          "diffusion_model.double_blocks.0.img_attn.proj.lora_down.weight": torch.ones(2, 32)},
         "img_attn.proj.weight .adapted under several names"),
        ({f"{stem}.lora_A.weight": torch.ones(2, 32)}, "1 surplus: .*img_attn_proj"),
        ({f"{stem}.dora_scale": torch.ones(32)}, "is a DoRA"),
        ({f"{stem}.lokr_w1": torch.ones(2, 2)}, "is a LoKr"),
    ):  # fmt: skip
        save_file({**good, **odd}, path)
        with pytest.raises(WeightsError, match=words):
            load_lora(path, model())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_has_one_rank_that_is_its_alpha(layout: LoraLayout, tmp_path: Path) -> None:
    """Readers that scale all adapters by the first one's rank, or take no alpha, agree on it."""
    base = model()
    tuned = merge(with_adapters(LoraConfig(rank=20, targets=EVERYTHING)))
    lora = extract(base.state_dict(), tuned.state_dict(), base, rank=20)  # img_in has 16 at most
    ranks = {len(down) for down, _ in lora.adapters.values()}
    assert len(ranks) > 2
    path = tmp_path / "lora.safetensors"
    save_lora(lora, path, base, layout, LoraInfo("tiny", "in ukiyo-e", "prints"))
    state = load_file(path)
    with safe_open(str(path), framework="pt") as handle:
        said = handle.metadata()
    assert said["ss_network_dim"] == said["ss_network_alpha"] == "20"
    assert said["modelspec.trigger_phrase"] == "in ukiyo-e"
    assert read_info(open_weights(path)) == LoraInfo("tiny", "in ukiyo-e", "prints")
    if layout == "diffusers":
        assert {len(v) for k, v in state.items() if ".lora_A" in k} == {20}
        assert '"transformer.lora_alpha": 20' in said["lora_adapter_metadata"]
    else:
        alphas = {k: float(v) for k, v in state.items() if k.endswith(".alpha")}
        downs = {k: len(v) for k, v in state.items() if ".lora_down" in k}
        assert {k.replace(".lora_down.weight", ".alpha"): v for k, v in downs.items()} == alphas
        assert set(alphas.values()) == {20, 60, 80}  # alone, q k v, q k v mlp: 20 each
        assert "lora_adapter_metadata" not in said
    again = load_lora(path, base)
    assert {len(down) for down, _ in again.adapters.values()} == ranks  # the filling is gone
    assert again.info == LoraInfo("tiny", "in ukiyo-e", "prints")
    assert torch.allclose(ours(plus(model(), again)), ours(tuned), atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_diffusers_reads_every_layout_to_our_output(layout: LoraLayout, tmp_path: Path) -> None:
    """On widths that are not FLUX.1's its converter knows double blocks alone."""
    targets = ("double_blocks.*",) if layout != "diffusers" else EVERYTHING
    made = merge(with_adapters(LoraConfig(rank=40, targets=targets)))
    lora = extract(model().state_dict(), made.state_dict(), model(), rank=40)
    path = tmp_path / "lora.safetensors"
    save_lora(lora, path, model(), layout)
    reference = diffusers_model()
    plain = theirs(reference)
    given, alphas, metadata = FluxPipeline.lora_state_dict(
        str(tmp_path), weight_name=path.name, return_alphas=True, return_lora_metadata=True
    )
    reference.load_lora_adapter(given, network_alphas=alphas, metadata=metadata)
    assert set(scalings(reference)) == {1.0}
    found = theirs(reference)
    assert (found - plain).abs().max() > 0.05
    assert torch.allclose(found, ours(made), atol=1e-4)


def test_adapters_beside_the_base_are_within_the_bound_of_diffusers(tmp_path: Path) -> None:
    """Not merged, here and there."""
    made = with_adapters(LoraConfig(rank=4, alpha=6, targets=EVERYTHING))
    save_lora(lora_of(made), tmp_path / "lora.safetensors", model())
    reference = diffusers_model()
    plain = theirs(reference)
    assert (ours(model()) - plain).abs().max() <= 2e-5
    given, metadata = FluxPipeline.lora_state_dict(
        str(tmp_path), weight_name="lora.safetensors", return_lora_metadata=True
    )
    reference.load_lora_adapter(given, metadata=metadata)
    found = theirs(reference)
    assert (found - plain).abs().max() > 0.05
    assert (ours(made) - found).abs().max() <= 2e-5


def scalings(reference: FluxTransformer2DModel) -> list[float]:
    layers: Any = [m for m in reference.modules() if hasattr(m, "lora_A") and hasattr(m, "scaling")]
    assert layers
    return [float(value) for layer in layers for value in layer.scaling.values()]


@pytest.mark.parametrize("layout", ["bfl", "kohya"])
@pytest.mark.parametrize("apart", [False, True])
def test_diffusers_takes_fused_adapters_of_flux_apart_as_we_do(
    layout: LoraLayout, apart: bool, tmp_path: Path
) -> None:
    """q, k, v and MLP of one adapter: with an A for all, and with one for each."""
    with torch.device("meta"):
        flux = FluxTransformer(TransformerShape())
    rules = {rule.bfl: rule for rule in rules_for(flux)}
    draw = torch.Generator().manual_seed(5)
    adapters = {}
    names = ("double_blocks.0.img_attn.qkv", "double_blocks.18.txt_attn.qkv",
             "double_blocks.3.txt_mlp.2", "single_blocks.37.linear1", "single_blocks.0.linear2",
             "single_blocks.1.modulation.lin")  # fmt: skip
    for name in names:
        rule = rules[f"{name}.weight"]
        parts = len(rule.parts) if apart else 1
        up = torch.randn(rule.shape[0], 2 * parts, generator=draw)
        if parts > 1:
            start = 0
            for index, rows in enumerate(rule.rows):
                keep = torch.zeros(2 * parts)
                keep[2 * index : 2 * index + 2] = 1
                up[start : start + rows] *= keep
                start += rows
        adapters[rule.bfl] = (torch.randn(2 * parts, rule.shape[1], generator=draw), up)
    path = tmp_path / "lora.safetensors"
    save_lora(Lora(adapters), path, flux, layout)
    state = FluxPipeline.lora_state_dict(load_file(path))
    for key, (down, up) in adapters.items():
        rule = rules[key]
        x = torch.randn(rule.shape[1], generator=draw)
        wanted = torch.split(up @ (down @ x), list(rule.rows))
        for part, values in zip(rule.parts, wanted, strict=True):
            stem = f"transformer.{part.removesuffix('.weight')}"
            a, b = state.pop(f"{stem}.lora_A.weight"), state.pop(f"{stem}.lora_B.weight")
            assert len(a) == 2, part
            assert torch.allclose(b @ (a @ x), values, atol=1e-2, rtol=1e-4), part
    assert not state
    assert_same(load_lora(path, flux), Lora(adapters))


def test_adapters_that_change_nothing_are_refused() -> None:
    lora = lora_of(with_adapters(LoraConfig(rank=2)))
    assert lora.require_effect() is lora and not lora.idle and not lora.notes()
    first = next(iter(lora.adapters))
    down, up = lora.adapters[first]
    some = Lora({**lora.adapters, first: (down, up * 0)})
    assert some.require_effect().idle == [first]
    assert some.notes() == [f"LoRA: 1 of {len(lora.adapters)} adapters are zero ({first}, …)"]
    with pytest.raises(WeightsError, match="changes nothing: all its adapters are zero"):
        lora.scaled(0).require_effect()


def test_a_checkpoint_of_all_parts_gives_its_transformer(tmp_path: Path) -> None:
    state = model().state_dict()
    wrapped = {f"model.diffusion_model.{key}": value for key, value in state.items()}
    wrapped["vae.decoder.conv_in.bias"] = torch.zeros(3)
    save_file(wrapped, tmp_path / "all.safetensors")
    found = open_weights(tmp_path / "all.safetensors")
    assert found.layout == "bfl" and set(found) == set(state)
    assert all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    "said",
    [
        "{not",
        "null",
        "[1]",
        "[" * 100_000,
        '{"transformer.lora_alpha": "six"}',
        '{"transformer.lora_alpha": [6]}',
        '{"transformer.alpha_pattern": ["to_q"]}',
        '{"transformer.alpha_pattern": {"(": 2}}',
    ],
)
def test_metadata_that_cannot_be_read_is_one_line(said: str, tmp_path: Path) -> None:
    path = tmp_path / "given.safetensors"
    state = tensors(lora_of(with_adapters(LoraConfig(rank=2))), "diffusers", tmp_path)
    save_file(state, path, {"lora_adapter_metadata": said})
    with pytest.raises(WeightsError, match="its LoRA metadata cannot be read") as caught:
        load_lora(path, model())
    assert "\n" not in str(caught.value)
