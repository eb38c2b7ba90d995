from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from flows import cli
from kontext.models.autoencoder import Autoencoder
from kontext.models.transformer import FluxTransformer
from kontext.safety.canaries import canary_png
from kontext.sample.folder import ModelSettings, save_model_folder
from schemas.recipes import AutoencoderShape, TransformerShape

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model and files to edit."""
    found = tmp_path_factory.mktemp("edit")
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderShape(ch=8, norm_groups=4), 0.36, 0.11)
    save_model_folder(
        found / "model", FluxTransformer(_SHAPE), autoencoder, ModelSettings(name="tiny", steps=1)
    )
    image = Image.new("RGB", (120, 90), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 10, 80, 80), fill="orange")
    draw.rectangle((50, 30, 110, 85), fill="navy")
    image.save(found / "photo.png")
    image.convert("CMYK").save(found / "cmyk.jpg")
    image.save(found / "moving.gif", save_all=True, append_images=[image.rotate(90)])
    whole = (found / "photo.png").read_bytes()
    (found / "half.png").write_bytes(whole[: len(whole) // 2])
    (found / "text.png").write_text("not an image")
    (found / "canary.png").write_bytes(canary_png(0))
    return found


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path / "home"))
    for name in ("KONTEXT_STORE", "KONTEXT_CATALOG"):
        monkeypatch.delenv(name, raising=False)


def _arguments(folder: Path, image: str, output: Path, *more: str) -> list[str]:
    weights = ["--weights", str(folder / "model")]
    source = str(folder / image)
    return ["edit", source, "make it night", "-o", str(output), *weights, *more]


def test_an_edit_carries_its_provenance_and_repeats_exactly(folder: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    result = runner.invoke(cli.app, _arguments(folder, "photo.png", one, "--json", "--seed", "7"))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    with Image.open(one) as edited:
        written = json.loads(edited.text["kontext"])
        assert edited.size == (64, 48)
    assert written["seed"] == said["seed"] == 7
    assert written["instruction"] == "make it night"
    assert written["digest"] == said["digest"]
    runner.invoke(cli.app, _arguments(folder, "photo.png", two, "--seed", "7"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("image", ["cmyk.jpg", "moving.gif"])
def test_odd_formats_are_edited(folder: Path, tmp_path: Path, image: str) -> None:
    result = CliRunner().invoke(cli.app, _arguments(folder, image, tmp_path / "out.png"))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("image", "code", "line"),
    [
        ("half.png", 1, "error: png: image file is truncated"),
        ("text.png", 1, "error: not an image format we read"),
        ("none.png", 1, "error: cannot read"),
        ("canary.png", 3, "error: refused: the image is on a hash list"),
    ],
)
def test_what_cannot_be_edited_is_refused_in_one_line(
    folder: Path,
    tmp_path: Path,
    image: str,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.png"
    monkeypatch.setattr(sys, "argv", ["kontext", *_arguments(folder, image, output)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == code
    assert said.startswith(line)
    assert said.count("\n") == 1
    assert not output.exists()


def test_without_a_model_it_says_what_to_do(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["edit", str(folder / "photo.png"), "make it night", "-o", str(tmp_path / "o.png")]
    monkeypatch.setattr(sys, "argv", ["kontext", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err == "error: no published model yet: `kontext run` makes one\n"
