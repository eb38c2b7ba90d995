import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from flows import cli
from kontext.edit.weights.folder import ModelSettings, read_config, save_model_folder
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.files.convert import rules_for, to_diffusers
from kontext.models.files.lora_files import save_lora
from kontext.models.flux.transformer import FluxTransformer
from kontext.models.lora import LoraConfig, LoraInfo, apply_lora, lora_of, merge
from kontext.models.text.encoders import flux_digest
from schemas.sections.models import AutoencoderShape, TransformerShape
from tests.edit.tiny_flux import networks, write_text_encoders

_SHAPE = TransformerShape(
    in_channels=64,
    vec_in_dim=384,
    context_in_dim=384,
    hidden_size=32,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(4, 6, 6),
    guidance_embed=False,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model folder, and an empty store."""
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path / "home"))
    for name in ("KONTEXT_STORE", "KONTEXT_CATALOG"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderShape(ch=8, norm_groups=4), 0.36, 0.11)
    model = FluxTransformer(_SHAPE)
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)
    save_model_folder(tmp_path / "model", model, autoencoder, ModelSettings(name="tiny", steps=1))
    return tmp_path


def call(*arguments: object) -> Any:
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def fails(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: object) -> str:
    """The one line of a failing call of the real entry point."""
    monkeypatch.setattr(sys, "argv", ["kontext", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said: str = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


def test_weights_go_in_and_out_and_in_again(home: Path) -> None:
    made = call("import", home / "model")
    digest = read_config(home / "model").digest
    assert made["model_digest"] == digest and not made["reused"]
    assert call("import", home / "model")["reused"]
    for layout in ("bfl", "diffusers"):
        out = home / layout
        assert call("export", made["artifact"], "--layout", layout, "-o", out)["files"]
        again = call("import", out, "--text", "minilm")
        assert again["model_digest"] == digest
    rows = call("doctor", home / "bfl")
    assert [(r["part"], r["layout"], r["model"]) for r in rows] == [
        ("transformer", "bfl", "custom"),
        ("autoencoder", "bfl", "custom"),
    ]
    for ref in ("import@tiny", home / "diffusers", home / "model"):
        found = call("doctor", ref)
        assert found[0]["shape"] == _SHAPE.model_dump(mode="json")
        assert found[0]["parameters"] == made["parameters"] and not found[0]["problems"]


def test_imported_weights_edit_a_picture(home: Path) -> None:
    call("import", home / "model", "--name", "mine", "--dtype", "bf16")
    Image.new("RGB", (64, 64), "orange").save(home / "in.png")
    out = home / "out.png"
    made = call("edit", home / "in.png", "make it night", "-o", out, "--weights", "import@mine")
    assert made["model"] == "mine" and out.is_file()


def test_a_model_goes_on_with_text_encoders_that_have_moved(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_text_encoders(home / "text")
    where = {"text_encoder": f"flux:{home / 'text'}", "text_digest": flux_digest(home / "text")}
    settings = ModelSettings(name="flux", steps=1, text_length=32, **where)
    save_model_folder(home / "flux", *networks(), settings)
    (home / "text").rename(home / "moved")
    shutil.copytree(home / "moved", home / "other")
    (home / "other/tokenizer/more.txt").write_text("another")
    Image.new("RGB", (64, 64), "orange").save(home / "in.png")
    capsys.readouterr()  # what was printed while the encoders were written
    monkeypatch.chdir(home)
    edit = ["edit", "in.png", "make it night", "-o", "out.png", "--weights", "flux"]
    export = ["export", "flux", "-o", "out", "--layout", "bfl"]
    assert "say where they are" in fails(monkeypatch, capsys, *edit)
    assert "was made with" in fails(monkeypatch, capsys, *export, "--text", "other")
    assert call(*edit, "--text", "moved")["model"] == "flux"
    assert read_config(home / "flux").settings == settings  # the model itself remembers nothing
    call(*export, "--text", "moved")
    assert "was made with" in fails(monkeypatch, capsys, "import", "out", "--text", "other")
    first = call("import", "out")
    assert "say where they are" in fails(monkeypatch, capsys, "import", "out", "--text", "none")
    (home / "moved").rename(home / "again")
    second = call("import", "out", "--text", "again")  # from now on it is looked for there
    assert first["artifact"] != second["artifact"]
    assert any(str(home / "again") in note for note in second["notes"])


def test_other_weights_under_the_same_file_names_are_another_artifact(home: Path) -> None:
    """Both parts of a diffusers folder have files of one name: each counts."""
    call("export", home / "model", "-o", home / "out")
    first = call("import", home / "out", "--text", "minilm")
    file = home / "out" / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({k: v + 1 for k, v in load_file(file).items()}, file)
    second = call("import", home / "out", "--text", "minilm")
    assert second["artifact"] != first["artifact"] and not second["reused"]


def test_a_lora_is_merged_on_the_way_in(home: Path) -> None:
    base = _tuned(home)
    save_lora(lora_of(base), home / "lora.safetensors", base)
    assert "rank 2" in call("doctor", home / "lora.safetensors")[0]["model"]
    call("import", home / "model", "--name", "tuned", "--lora", home / "lora.safetensors")
    call("export", "import@tuned", "--layout", "bfl", "-o", home / "out")
    tuned = load_file(home / "out" / "tuned.safetensors")
    assert all(torch.allclose(tuned[k], v, atol=1e-6) for k, v in merge(base).state_dict().items())


def test_published_geometries_are_recognised(home: Path) -> None:
    """FLUX.1's shapes, told from the header of a file of empty tensors."""
    from kontext.models.files.recognise import transformer_name

    assert transformer_name(TransformerShape()) == "FLUX.1-dev or FLUX.1-Kontext-dev"
    assert transformer_name(TransformerShape(guidance_embed=False)) == "FLUX.1-schnell"
    narrow = TransformerShape(hidden_size=128, num_heads=1, depth=2, depth_single_blocks=3)
    model = FluxTransformer(narrow)
    for name, state in (
        ("bfl", model.state_dict()),
        ("theirs", to_diffusers(model.state_dict(), rules_for(model))),
    ):
        save_file(state, home / f"{name}.safetensors")
        row = call("doctor", home / f"{name}.safetensors")[0]
        assert row["shape"] == narrow.model_dump(mode="json") and not row["assumed"]


def test_bad_weights_are_one_line_and_exit_1(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    good = home / "model" / "transformer.safetensors"
    ae = ["--autoencoder", home / "model" / "autoencoder.safetensors"]
    cut, other, part = (home / f"{n}.safetensors" for n in ("cut", "other", "part"))
    cut.write_bytes(good.read_bytes()[:-10])
    save_file({"model.diffusion.x": torch.zeros(1)}, other)
    state = load_file(good)
    del state["img_in.bias"]
    save_file(state, part)
    wide = FluxTransformer(_SHAPE.model_copy(update={"hidden_size": 64, "axes_dim": (8, 12, 12)}))
    save_lora(lora_of(apply_lora(wide, LoraConfig(rank=2))), home / "wide.safetensors", wide)

    def said(*arguments: object) -> str:
        return fails(monkeypatch, capsys, *arguments)

    assert "cannot be read as safetensors" in said("import", cut, *ae)
    assert "neither FLUX.1 weights" in said("import", other, *ae)
    assert "1 missing: img_in.bias" in said("import", part, *ae)
    assert "no autoencoder next to it" in said("import", cut)
    assert "axes_dim cannot be read" in said("import", good, *ae)
    assert "does not exist" in said("import", home / "absent")
    assert "unknown dtype" in said("import", home / "model", "--dtype", "int3")
    assert "misshapen" in said("import", home / "model", "--lora", home / "wide.safetensors")
    assert "unknown layout" in said("export", home / "model", "--layout", "onnx", "-o", home / "o")
    assert "neither a folder nor an artifact" in said("export", "nothing", "-o", home / "o")
    assert "is not empty" in said("export", home / "model", "-o", home / "model")
    result = CliRunner().invoke(cli.app, ["doctor", str(part)])
    assert result.exit_code == 1 and "1 missing: img_in.bias" in result.output


def test_configurations_that_do_not_describe_a_model_are_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    call("export", home / "model", "-o", home / "out")
    for part, texts in (
        ("transformer", ('{"num_attention_heads": "x", "attention_head_dim": 4}',
                         '{"num_attention_heads": [2]}', '{"num_attention_heads": 2}',
                         '{"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": "a",'
                         ' "pooled_projection_dim": 384, "joint_attention_dim": [],'
                         ' "num_layers": 1, "num_single_layers": 1, "guidance_embeds": false}')),
        ("vae", ('{"block_out_channels": []}', '{"block_out_channels": [0, 8]}')),
    ):  # fmt: skip
        file = home / "out" / part / "config.json"
        whole = file.read_text()
        for text in texts:
            file.write_text(text)
            assert "its configuration" in fails(monkeypatch, capsys, "doctor", home / "out")
        file.write_text(whole)
    assert not call("doctor", home / "out")[0]["problems"]


def _tuned(home: Path) -> FluxTransformer:
    """The home's model with adapters of rank 2 that do something."""
    base = FluxTransformer(_SHAPE)
    base.load_state_dict(load_file(home / "model" / "transformer.safetensors"))
    apply_lora(base, LoraConfig(rank=2))
    for parameter in (p for p in base.parameters() if p.requires_grad):
        torch.nn.init.normal_(parameter, std=0.1)
    return base


@pytest.mark.parametrize("layout", ["diffusers", "bfl", "kohya"])
def test_adapters_come_out_of_a_finetune_and_go_into_a_model(home: Path, layout: str) -> None:
    model = _tuned(home)
    save_lora(lora_of(model), home / "lora.safetensors", model)
    made = call("lora", "merge", home / "model", home / "lora.safetensors", "-o", home / "tuned")
    tuned = load_file(home / "tuned" / "transformer.safetensors")
    merged = merge(model).state_dict()
    assert all(torch.allclose(tuned[key], value, atol=1e-6) for key, value in merged.items())
    assert (
        made["digest"] == read_config(home / "tuned").digest != read_config(home / "model").digest
    )

    call("import", home / "tuned", "--name", "mine")  # an artifact serves as well as a folder
    out = home / "again.safetensors"
    found = call(
        "lora", "extract", home / "model", "import@mine", "-o", out, "--rank", 2, "--layout", layout
    )
    assert found["lost"] < 1e-3 and found["not_held"] == []
    call("lora", "merge", home / "model", out, "-o", home / "half", "--strength", 0.5)
    base = load_file(home / "model" / "transformer.safetensors")
    half = load_file(home / "half" / "transformer.safetensors")
    for key, value in base.items():
        assert torch.allclose(half[key], (value + tuned[key]) / 2, atol=1e-5)


def test_adapters_are_written_in_other_keys_and_say_what_they_are(home: Path) -> None:
    model, out = _tuned(home), home / "out.safetensors"
    file = home / "lora.safetensors"
    save_lora(lora_of(model), file, model, info=LoraInfo("tiny", "as a print"))
    text = {"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 2)}
    for layout in ("kohya", "bfl", "diffusers"):
        made = call("lora", "convert", home / "model", file, "-o", out, "--layout", layout)
        row = call("doctor", out)[0]
        said = row["layout"], row["made_for"], row["trigger"]
        assert said == (layout, "tiny", "as a print")
        assert made["notes"] == [] and row["model"].endswith("adapters of rank 2")
    save_file({**load_file(file), **text}, home / "both.safetensors")
    for made in (
        call("lora", "merge", home / "model", home / "both.safetensors", "-o", home / "merged"),
        call("import", home / "model", "--name", "m", "--lora", home / "both.safetensors"),
    ):
        assert "1 tensors for text encoders are left out" in made["notes"][0]


def test_adapters_that_do_nothing_are_refused(home: Path, monkeypatch: Any, capsys: Any) -> None:
    """They are zero, or too small for the dtype of the weights that they are added to."""
    model, file = _tuned(home), home / "lora.safetensors"
    save_lora(lora_of(model).scaled(1e-12), file, model)
    asked = ["import", home / "model", "--name", "x", "--lora", file]
    assert "rounding of the weights' dtype" in fails(monkeypatch, capsys, *asked, "--dtype", "bf16")
    save_lora(lora_of(model).scaled(1e-3), file, model)
    assert call(*asked, "--dtype", "fp32")["notes"] == []
    save_lora(lora_of(model).scaled(0), file, model)
    for command in (asked, ["lora", "merge", home / "model", file, "-o", home / "y"]):
        assert "all its adapters are zero" in fails(monkeypatch, capsys, *command)
    assert not (home / "y").exists()


def test_bad_adapters_are_one_line(home: Path, monkeypatch: Any, capsys: Any) -> None:
    def said(*arguments: object) -> str:
        return fails(monkeypatch, capsys, "lora", *arguments)

    model, out = home / "model", home / "out.safetensors"
    assert "nothing to extract" in said("extract", model, model, "-o", out)
    assert "no file, folder or artifact" in said("extract", model, "none", "-o", out)
    assert "saved as .safetensors" in said("extract", model, model, "-o", home / "out.bin")
    assert "does not exist" in said("merge", model, home / "none.safetensors", "-o", home / "x")
    transformer = model / "transformer.safetensors"
    assert "no LoRA adapters" in said("merge", model, transformer, "-o", home / "x")
    narrow = FluxTransformer(_SHAPE.model_copy(update={"hidden_size": 16, "num_heads": 1}))
    save_file(narrow.state_dict(), home / "narrow.safetensors")
    assert "have different shapes" in said("extract", model, home / "narrow.safetensors", "-o", out)
    apply_lora(narrow, LoraConfig(rank=2))
    save_lora(lora_of(narrow), home / "narrow-lora.safetensors", narrow)
    assert "misshapen" in said("merge", model, home / "narrow-lora.safetensors", "-o", home / "x")
    assert "not an empty folder" in said("merge", model, transformer, "-o", model)
    assert not out.exists() and not (home / "x").exists()
