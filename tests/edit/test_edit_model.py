import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kontext.edit.canvas import Frame, fit, to_tensor, to_uint8
from kontext.edit.edit_model import EditModel
from kontext.edit.euler import Guidance
from kontext.edit.request import Edit, Options
from kontext.edit.weights.folder import ModelSettings, load_model_folder, save_model_folder
from kontext.errors import KontextError, WeightsError
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from tests.models.shapes import AE, FLOW

SETTINGS = ModelSettings(name="tiny", text_length=5, resolution=32, steps=2)


class Letters:
    """A text encoder that tells texts apart by their letters."""

    digest, dim, pooled_dim = "letters", 10, 6

    def encode(self, texts: list[str], length: int) -> tuple[torch.Tensor, ...]:
        tokens = torch.zeros(len(texts), length, 10)
        for row, text in enumerate(texts):
            for i, letter in enumerate(text[:length]):
                tokens[row, i, ord(letter) % 10] = 3.0
        return tokens, tokens.any(-1), tokens.sum(1)[:, :6]

    def count(self, text: str) -> int:
        return len(text.split())


def networks(guidance_embed: bool = False) -> tuple[FluxTransformer, Autoencoder]:
    torch.manual_seed(0)
    flow = FluxTransformer(FLOW.model_copy(update={"guidance_embed": guidance_embed}))
    ae = Autoencoder(AE, scale=0.8, shift=0.1)
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    return flow, ae


def editor(folder: Path, **settings: Any) -> EditModel:
    save_model_folder(folder, *networks(), SETTINGS.model_copy(update=settings))
    return EditModel(load_model_folder(folder), Letters())


def photo(height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_folder_round_trip_keeps_weights_settings_and_digest(tmp_path: Path) -> None:
    flow, ae = networks()
    digest = save_model_folder(tmp_path / "a", flow, ae, SETTINGS)
    assert save_model_folder(tmp_path / "b", flow, ae, SETTINGS) == digest
    for name in ("config.json", "transformer.safetensors", "autoencoder.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = load_model_folder(tmp_path / "a")
    assert (loaded.digest, loaded.settings) == (digest, SETTINGS)
    assert (loaded.autoencoder.scale, loaded.autoencoder.shift) == (0.8, 0.1)
    for ours, theirs in ((flow, loaded.transformer), (ae, loaded.autoencoder)):
        assert not theirs.training
        for key, value in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[key], value), key
    with torch.no_grad():
        flow.img_in.bias.add_(1e-3)
    assert save_model_folder(tmp_path / "c", flow, ae, SETTINGS) != digest


def test_a_published_artifact_loads_like_its_folder(tmp_path: Path) -> None:
    digest = save_model_folder(tmp_path / "model", *networks(), SETTINGS)

    class Artifact:
        def path(self, name: str) -> Path:
            return tmp_path / name

    assert load_model_folder(Artifact()).digest == digest


def test_broken_folders_are_weights_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no model here"):
        load_model_folder(tmp_path)
    save_model_folder(tmp_path, *networks(), SETTINGS)
    config = json.loads((tmp_path / "config.json").read_text())
    config["transformer"]["depth"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"missing: double_blocks\.1\."):
        load_model_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"format": "other"}')
    with pytest.raises(WeightsError, match="not a kontext model"):
        load_model_folder(tmp_path)


def test_an_edit_depends_on_image_instruction_and_seed_only(tmp_path: Path) -> None:
    edit = editor(tmp_path)
    first = edit.edit([photo()], "make it red")
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(edit.edit([photo()], "make it red"), first)
    assert not np.array_equal(edit.edit([photo()], "make it red", seed=1), first)
    assert not np.array_equal(edit.edit([photo()], "draw a cat"), first)
    assert not np.array_equal(edit.edit([255 - photo()], "make it red"), first)
    assert not np.array_equal(edit.edit([photo()], "make it red", steps=4), first)
    assert not np.array_equal(edit.edit([photo()], "make it red", guidance=3.0), first)
    assert not np.array_equal(edit.edit([photo(), 255 - photo()], "make it red"), first)


def halved(height: int, width: int) -> Any:
    """A mask of the upper half."""
    return np.repeat(np.arange(height)[:, None] <= height // 2, width, axis=1)


@pytest.mark.parametrize(
    "shape", [(60, 90), (90, 60), (1, 1), (8, 9), (33, 31), (40, 160), (300, 77)]
)
def test_results_have_the_size_of_the_first_image_unless_one_is_asked(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    edit, mask = editor(tmp_path, steps=1), halved(*shape)
    assert edit.edit([photo(*shape), photo(10, 10)], "x").shape == (*shape, 3)
    masked = edit.edit([photo(*shape)], "x", mask=mask)
    assert np.array_equal(masked[~mask], photo(*shape)[~mask])


def test_a_model_of_several_sizes_keeps_each_images_shape(tmp_path: Path) -> None:
    ours = editor(tmp_path, sizes=((32, 48), (32, 32), (48, 32)))
    images = [photo(48, 32), photo(60, 95), photo(50, 51), photo(40, 90)]
    edits = [Edit([image, images[0]], "make it night") for image in images]
    made = ours.edit_many(edits, batch=4)
    assert [one.shape for one in made] == [image.shape for image in images]
    # stretched where the shape is near, with a border where it is not
    wanted = [(32, 48), (48, 32), (32, 32), (48, 21)]
    assert [ours.edited_at(image) for image in images] == wanted


def test_a_megapixels_edit_has_the_size_of_the_picture(tmp_path: Path) -> None:
    edit, mask = editor(tmp_path, sizes="kontext", steps=1), halved(300, 77)
    masked = edit.edit([photo(300, 77)], "x", mask=mask)
    assert masked.shape == (300, 77, 3)
    assert np.array_equal(masked[~mask], photo(300, 77)[~mask])


@pytest.mark.parametrize("sizes", ["square", "kontext"])
def test_too_long_a_picture_is_refused(tmp_path: Path, sizes: str) -> None:
    edit = editor(tmp_path, sizes=sizes, steps=1)
    for long in (photo(20, 81), photo(81, 20)):
        for images in ([long], [photo(), long]):
            with pytest.raises(KontextError, match="is longer than 4 to 1"):
                edit.edit(images, "x")


def test_an_edit_says_at_what_size_it_was_made(tmp_path: Path) -> None:
    edit = editor(tmp_path)
    made = edit.provenance(Edit([photo(400, 600)], "x"), Options())
    assert made.edited_at == "32 x 21"
    assert edit.settings.made_for == "pictures of 32 x 32"
    edit.settings = edit.settings.model_copy(update={"sizes": "kontext"})
    assert edit.edited_at(photo(400, 600)) == (1248, 832)
    assert edit.edited_at(photo(100, 400)) == (2048, 512)
    assert "megapixel" in edit.settings.made_for


def test_a_size_that_is_asked_for_is_what_the_model_makes(tmp_path: Path) -> None:
    edit = editor(tmp_path)
    assert edit.edit([photo(60, 90)], "x", size=(64, 32)).shape == (32, 64, 3)
    assert edit.edit([], "x").shape == (32, 32, 3)


def test_guidance_goes_where_the_model_takes_it(tmp_path: Path) -> None:
    save_model_folder(tmp_path, *networks(guidance_embed=True), SETTINGS)
    edit = EditModel(load_model_folder(tmp_path), Letters())
    low, high = (edit.edit([photo()], "x", guidance=g) for g in (1.0, 4.0))
    assert not np.array_equal(low, high)


def test_kontext_models_snap_to_the_17_sizes(tmp_path: Path) -> None:
    edit = editor(tmp_path, sizes="kontext")
    (ready,) = edit.prepare([Edit([photo(300, 400), photo(50, 50)], "x")])
    assert [c.shape[2:] for c in ready.contexts] == [(110, 148), (128, 128)]
    assert ready.target == (1184, 880)
    assert ready.frame == Frame(0, 0, 1184, 880)


def test_bad_requests_are_one_clear_line(tmp_path: Path) -> None:
    edit = editor(tmp_path)
    for arguments, words in (
        (([photo()], "  "), "empty"),
        (([photo().astype(np.float32)], "x"), "uint8"),
        (([photo()[:, :, :1]], "x"), "uint8"),
    ):
        with pytest.raises(KontextError, match=words):
            edit.edit(*arguments)  # type: ignore[arg-type]
    with pytest.raises(KontextError, match="multiples of 16"):
        edit.edit([photo()], "x", size=(33, 32))
    with pytest.raises(KontextError, match="steps"):
        edit.edit([photo()], "x", steps=0)


def test_another_text_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="trained with text encoder minilm-1"):
        editor(tmp_path, text_digest="minilm-1")
    editor(tmp_path, text_digest="letters")


def test_provenance_names_the_model_and_the_settings_used(tmp_path: Path) -> None:
    edit = editor(tmp_path)
    origin = edit.provenance(Edit([photo()], "make it red", seed=3), Options(guidance=2.0))
    assert (origin.model, origin.digest) == ("tiny", edit.digest)
    assert (origin.instruction, origin.seed, origin.steps, origin.guidance) == (
        "make it red",
        3,
        2,
        2.0,
    )


def test_letterbox_and_stretch() -> None:
    red = np.zeros((10, 20, 3), np.uint8)
    red[..., 0] = 255
    canvas, frame = fit(red, (32, 32), (255, 255, 255))
    assert (frame.left, frame.top, frame.width, frame.height) == (0, 8, 32, 16)
    assert (canvas[8:24] == [255, 0, 0]).all()
    assert (canvas[:8] == 255).all()
    assert (canvas[24:] == 255).all()
    assert (fit(red, (32, 32), (255, 255, 255), stretch=True)[0] == [255, 0, 0]).all()
    assert np.array_equal(fit(photo(), (32, 32), (0, 0, 0))[0], photo())


def test_pixels_round_trip_and_clamp() -> None:
    assert np.array_equal(to_uint8(to_tensor([photo()]))[0], photo())
    assert to_uint8(torch.tensor([-9.0, 9.0]).view(1, 1, 1, 2)).ravel().tolist() == [0, 255]


def test_loading_a_model_does_not_import_the_compiler(tmp_path: Path) -> None:
    """torch._dynamo takes longer to import than a small model takes to edit."""
    save_model_folder(tmp_path, *networks(), SETTINGS)
    code = (
        "import sys, pathlib, kontext.edit.weights.folder as f; "
        f"f.load_model_folder(pathlib.Path({str(tmp_path)!r})); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_large_images_are_coded_in_tiles_that_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_model_folder(tmp_path, *networks(), SETTINGS)
    # in bf16 both ways are as far from fp32 as from each other
    made = EditModel(load_model_folder(tmp_path), Letters(), autocast=False)
    whole = made.edit([photo()], "a b")
    assert made.tile(photo()) == 0
    made.codec.tile_above = 1023  # the model's square has 32 x 32
    monkeypatch.setattr("kontext.edit.codec.TILE", 16)
    with caplog.at_level("INFO", logger="kontext"):
        tiled = made.edit([photo()], "a b")
    assert np.abs(tiled.astype(int) - whole).max() <= 1
    assert "32 x 32: decoded in tiles of 16 pixels" in caplog.text
    assert made.tile(photo()) == 16
    assert made.provenance(Edit([photo()], "a b"), Options()).tile == 16


def test_a_result_of_another_size_has_no_detail_to_keep(tmp_path: Path) -> None:
    ours = editor(tmp_path)
    made = ours.edit([photo()], "keep it", size=(48, 32), keep_detail=True)
    assert np.array_equal(made, ours.edit([photo()], "keep it", size=(48, 32)))


def test_each_image_is_encoded_once_and_each_text_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = editor(tmp_path)
    seen: list[int] = []
    texts: list[tuple[str, ...]] = []
    encode, read = ours.codec.encode, ours.text.encode

    def encoding(pictures: list[np.ndarray]) -> torch.Tensor:
        seen.append(len(pictures))
        return encode(pictures)

    def reading(found: tuple[str, ...], length: int) -> object:
        texts.append(tuple(found))
        return read(found, length)

    monkeypatch.setattr(ours.codec, "encode", encoding)
    monkeypatch.setattr(ours.text, "encode", reading)
    one, two, three = (np.roll(photo(), n) for n in range(3))
    edits = [Edit([one], "a", 1), Edit([one], "a", 2), Edit([two], "b"), Edit([three], "a")]
    ours.edit_many(edits, batch=2)
    assert seen == [2, 1]
    assert texts == [("a",), ("b", "a")]


def test_an_edits_noise_is_that_of_its_seed_and_stream(tmp_path: Path) -> None:
    ours = editor(tmp_path)
    first = ours.edit([photo()], "x", seed=3)
    assert np.array_equal(ours.edit([photo()], "x", seed=3, stream=0), first)
    assert not np.array_equal(ours.edit([photo()], "x", seed=3, stream=1), first)


def test_any_text_is_cut_where_it_is_asked_for(tmp_path: Path) -> None:
    ours = editor(tmp_path)
    ours.edit([photo()], "six words are too many here", any_text=True)
    ours.edit([photo()], "", any_text=True)


def test_guidance_has_the_form_that_the_model_takes() -> None:
    plain, embedded = networks()[0], networks(guidance_embed=True)[0]
    assert Guidance.of(plain, 3.0, image=1.5) == Guidance(3.0, 1.5)
    assert Guidance.of(embedded, 3.0, true_cfg=2.0) == Guidance(2.0, 1.0, embedded=3.0)
