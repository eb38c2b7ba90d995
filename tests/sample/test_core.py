from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from kontext.sample.core import PictureCodec, guidance_for
from kontext.sample.euler import Guidance
from kontext.sample.request import Edit
from tests.sample.test_editor import editor, networks, photo

SOURCES = [
    path
    for top in ("kontext", "flows", "tasks")
    for path in (Path(__file__).parents[2] / top).rglob("*.py")
]


def callers(name: str) -> set[str]:
    """Files of the product that call something of this name."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func
                own = called.attr if isinstance(called, ast.Attribute) else ""
                if name == (called.id if isinstance(called, ast.Name) else own):
                    found.add(path.name)
    return found


def test_there_is_one_path_for_every_edit() -> None:
    """A second sampler or decoder would be scored, shown or trained on in place of the user's."""
    assert callers("restore_detail") == {"core.py"}
    assert callers("_Velocity") == {"euler.py"}
    assert callers("denoise") == {"editor.py", "edits.py", "session.py", "latency.py"}


def test_guidance_goes_where_the_model_takes_it() -> None:
    plain, embedded = networks()[0], networks(guidance_embed=True)[0]
    assert guidance_for(plain, 3.0, image=1.5) == Guidance(3.0, 1.5)
    assert guidance_for(embedded, 3.0, true_cfg=2.0) == Guidance(2.0, 1.0, embedded=3.0)


@pytest.fixture
def codec() -> PictureCodec:
    return PictureCodec(networks()[1].requires_grad_(False).eval(), autocast=False)


def test_pictures_go_through_the_autoencoder_together_up_to_a_number_of_pixels(
    codec: PictureCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = codec.autoencoder.decode

    def decode(latents: torch.Tensor, tiling: object) -> torch.Tensor:
        sizes.append(len(latents))
        return real(latents, None)

    monkeypatch.setattr(codec.autoencoder, "decode", decode)
    images = np.stack([np.roll(photo(), n) for n in range(5)])
    latents = codec.encode(images)
    together = codec.pictures(latents)
    codec.tile_above = 2 * 32 * 32
    parted = codec.pictures(latents)
    assert sizes == [5, 2, 2, 1]
    assert together.shape == images.shape and together.dtype == np.uint8
    assert np.abs(together.astype(int) - parted).max() <= 1
    assert torch.allclose(codec.encode(images), latents, atol=1e-5)


def test_detail_is_restored_from_the_originals(codec: PictureCodec) -> None:
    images = photo()[None]
    latents = codec.encode(images)
    assert np.abs(codec.pictures(latents).astype(int) - images).max() > 20  # it is untrained
    restored = codec.pictures(latents, images, latents)
    assert np.abs(restored.astype(int) - images).max() <= 1


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
