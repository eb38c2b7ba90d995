import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline
from PIL import Image
from safetensors.torch import load_file

from kontext.edit.edit_model import EditModel
from kontext.edit.weights.exports import export_model
from kontext.edit.weights.folder import (
    ModelSettings,
    load_model_folder,
    read_config,
    save_model_folder,
)
from kontext.edit.weights.imports import find_source, import_model
from kontext.errors import WeightsError
from kontext.models.files.lora_files import load_lora, save_lora
from kontext.models.lora import LoraConfig, adapters, apply_lora, lora_of
from kontext.models.text.encoders import flux_digest, load_text_encoder
from tests.edit.tiny_flux import networks, read_json, write_text_encoders


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder with FLUX.1's text encoders, and its export for diffusers."""
    folder = tmp_path_factory.mktemp("flux")
    write_text_encoders(folder / "text")
    settings = ModelSettings(
        name="tiny",
        text_encoder=f"flux:{folder / 'text'}",
        text_length=16,
        resolution=64,
        steps=2,
        guidance=2.5,
    )
    save_model_folder(folder / "model", *networks(), settings)
    export_model(folder / "model", folder / "export", "diffusers")
    return folder


@contextmanager
def silence() -> Iterator[None]:
    """Fail on any warning, of Python's or in the log of diffusers, transformers or peft."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers", "peft")]
    for logger in loggers:
        logger.addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(listener)
    said += [str(w.message) for w in caught]
    assert not said


def pipeline(folder: Path) -> FluxKontextPipeline:
    found = FluxKontextPipeline.from_pretrained(folder)
    found.set_progress_bar_config(disable=True)
    return found


def picture() -> np.ndarray:
    rows = np.linspace(0, 255, 64).astype(np.uint8)
    return np.stack(np.broadcast_arrays(rows[:, None], rows[None], np.uint8(90)), axis=-1)


def edit(pipe: FluxKontextPipeline) -> np.ndarray:
    """The pipeline's edit of `picture` at the model's own size, from our noise."""
    from kontext.edit.euler import noise
    from kontext.models.flux.sequence import pack

    made = pipe(
        image=Image.fromarray(picture()),
        prompt="make it night",
        height=64,
        width=64,
        max_area=64 * 64,
        _auto_resize=False,
        num_inference_steps=2,
        guidance_scale=2.5,
        max_sequence_length=16,
        latents=pack(noise(0, [0], (4, 8, 8))),
        output_type="np",
    ).images[0]
    return np.asarray(np.round(made * 255), np.int16)


def our_edit(model_folder: Path, transformer: Any = None) -> np.ndarray:
    model = load_model_folder(model_folder)
    if transformer is not None:
        model = replace(model, transformer=transformer)
    editor = EditModel(model, load_text_encoder(model.settings.text_encoder), autocast=False)
    return editor.edit([picture()], "make it night", seed=0).astype(np.int16)


def test_the_published_pipeline_loads_our_export_and_edits_without_a_warning(home: Path) -> None:
    with silence():
        pipe = pipeline(home / "export")
        theirs = edit(pipe)
    assert theirs.shape == (64, 64, 3) and theirs.std() > 5
    assert np.abs(theirs - our_edit(home / "model")).max() <= 2


def test_the_published_pipeline_loads_our_lora_and_gives_our_output(
    home: Path, tmp_path: Path
) -> None:
    model = apply_lora(load_model_folder(home / "model").transformer, LoraConfig(3, 1.5, ("*",)))
    draw = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.25)
    save_lora(lora_of(model), tmp_path / "lora.safetensors", model)
    pipe = pipeline(home / "export")
    plain = edit(pipe)
    # diffusers always remarks that a transformer's LoRA has nothing for CLIP: not ours to silence
    pipe.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    theirs = edit(pipe)
    assert np.abs(theirs - plain).max() > 5
    assert np.abs(theirs - our_edit(home / "model", model)).max() <= 2
    again = load_lora(tmp_path / "lora.safetensors", model).adapters
    for name, layer in adapters(model).items():
        down, up = again[f"{name}.weight"]
        assert torch.equal(down, layer.lora_down) and torch.equal(up, layer.lora_up * layer.scale)


@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_an_export_comes_back_byte_for_byte(home: Path, tmp_path: Path, layout: str) -> None:
    export_model(home / "model", tmp_path / "out", layout)  # type: ignore[arg-type]
    source = find_source(tmp_path / "out")
    again = import_model(source, tmp_path / "again")
    assert again.settings == read_config(home / "model").settings.model_copy(
        update={"text_encoder": again.settings.text_encoder}
    )
    assert read_config(tmp_path / "again").transformer == read_config(home / "model").transformer
    for name in ("transformer.safetensors", "autoencoder.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (home / "model" / name).read_bytes()
    if layout == "bfl":
        assert again.digest == read_config(home / "model").digest
        names = set(load_file(tmp_path / "out" / "ae.safetensors"))
        assert "encoder.down.0.block.0.conv1.weight" in names
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "ae.safetensors",
            "kontext.json",
            "tiny.safetensors",
        ]


def test_a_model_without_flux_text_encoders_is_no_pipeline_and_says_so(
    home: Path, tmp_path: Path
) -> None:
    settings = ModelSettings(name="small")
    save_model_folder(tmp_path / "model", *networks(), settings)
    made = export_model(tmp_path / "model", tmp_path / "out", "diffusers")
    assert "transformer, vae and scheduler only" in made.note and "minilm" in made.note
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"kontext.json", "scheduler", "transformer", "vae"}
    with pytest.raises(WeightsError, match="not empty"):
        export_model(tmp_path / "model", tmp_path / "out", "diffusers")
    gone = settings.model_copy(update={"text_encoder": "flux:/nowhere"})
    save_model_folder(tmp_path / "gone", *networks(), gone)
    with pytest.raises(WeightsError, match="have moved"):
        export_model(tmp_path / "gone", tmp_path / "out2", "diffusers")
    assert not (tmp_path / "out2").exists()  # said first: the next try needs no other folder


def test_text_encoders_that_have_moved_are_exported_from_their_new_place(
    home: Path, tmp_path: Path
) -> None:
    settings = read_config(home / "model").settings
    digest = flux_digest(home / "text")
    lost = settings.model_copy(update={"text_encoder": "flux:/nowhere", "text_digest": digest})
    save_model_folder(tmp_path / "model", *networks(), lost)
    for layout in ("bfl", "diffusers"):
        export_model(tmp_path / "model", tmp_path / layout, layout, text=str(home / "text"))  # type: ignore[arg-type]
        said = read_json(tmp_path / layout / "kontext.json")["text_encoder"]
        assert said == settings.text_encoder
    assert flux_digest(tmp_path / "diffusers") == digest
    other = lost.model_copy(update={"text_digest": "0" * 16})
    save_model_folder(tmp_path / "other", *networks(), other)
    with pytest.raises(WeightsError, match="was made with 0000"):
        export_model(tmp_path / "other", tmp_path / "no", "diffusers", text=str(home / "text"))
    assert not (tmp_path / "no").exists()
