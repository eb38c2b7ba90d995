from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from kontext.errors import WeightsError
from kontext.models.text import cache as text_cache
from kontext.models.text.cache import (
    CachedText,
    LaterText,
    cached_text_encoder,
    later_text_encoder,
)
from kontext.models.text.encoders import Encoded, FluxTextEncoder, MiniLM
from tests.edit.tiny_flux import write_text_encoders


class Drawn:
    """Draws embeddings from the text's length, and notes what it was asked for."""

    digest, dim, pooled_dim = "drawn", 6, 4

    def __init__(self, rounded: bool) -> None:
        self.rounded = rounded
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        self.asked += texts
        draws = [torch.Generator().manual_seed(len(text)) for text in texts]
        tokens = torch.stack([torch.randn(length, 6, generator=draw) for draw in draws])
        pooled = torch.stack([torch.randn(4, generator=draw) for draw in draws])
        if self.rounded:
            tokens, pooled = tokens.bfloat16().float(), pooled.bfloat16().float()
        return tokens, torch.ones(len(texts), length, dtype=torch.bool), pooled

    def count(self, text: str) -> int:
        return len(text.split())


def cached(folder: Path, encoder: Drawn, digest: str = "drawn") -> CachedText:
    widths = encoder.dim, encoder.pooled_dim
    return CachedText(folder, LaterText(digest, widths, encoder.count, lambda: encoder))


@pytest.mark.parametrize("rounded", [True, False])
def test_a_text_is_encoded_once_and_comes_back_bit_for_bit(tmp_path: Path, rounded: bool) -> None:
    encoder = Drawn(rounded)
    texts = ["one", "", "three", "one"]
    first = cached(tmp_path / "texts", encoder).encode(texts, 5)
    assert encoder.asked == ["one", "", "three"]
    again = cached(tmp_path / "texts", encoder).encode([*texts, "a new one"], 5)
    assert encoder.asked == ["one", "", "three", "a new one"]
    for ours, made, kept in zip(encoder.encode(texts, 5), first, again, strict=True):
        assert torch.equal(made, ours) and torch.equal(kept[:4], ours)
        assert made.dtype == kept.dtype == ours.dtype


def test_length_encoder_and_damage_make_a_text_new(tmp_path: Path) -> None:
    encoder = Drawn(True)
    cached(tmp_path, encoder).encode(["one"], 5)
    cached(tmp_path, encoder).encode(["one"], 6)
    cached(tmp_path, encoder, "other").encode(["one"], 5)
    assert encoder.asked == ["one"] * 3
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    cached(tmp_path, encoder).encode(["one"], 5)
    cached(tmp_path, encoder).encode(["one"], 5)
    assert encoder.asked == ["one"] * 4


def test_the_newest_texts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "KEPT", 2)
    encoder = Drawn(True)
    for text in ("a", "bb", "ccc"):
        cached(tmp_path, encoder).encode([text], 5)
    assert len(list(tmp_path.iterdir())) == 2
    cached(tmp_path, encoder).encode(["bb", "ccc"], 5)
    assert encoder.asked == ["a", "bb", "ccc"]


def test_flux_encoders_are_loaded_for_new_texts_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text_encoders(tmp_path / "text")
    spec, loads = f"flux:{tmp_path / 'text'}", []
    load = FluxTextEncoder.load
    monkeypatch.setattr(FluxTextEncoder, "load", lambda *a: loads.append(a) or load(*a))
    whole = load(tmp_path / "text")
    for _ in range(2):
        found = cached_text_encoder(spec, "cpu", tmp_path / "texts")
        assert found.digest == whole.digest
        assert found.count("make it night") == whole.count("make it night") > 5
        for ours, theirs in zip(
            found.encode(["make it night", ""], 16),
            whole.encode(["make it night", ""], 16),
            strict=True,
        ):
            assert torch.equal(ours, theirs)
        assert len(loads) == 1
    with pytest.raises(WeightsError, match="sub-folder text_encoder"):
        cached_text_encoder(f"flux:{tmp_path}", "cpu", tmp_path / "texts")


def test_what_is_known_of_flux_encoders_is_known_before_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text_encoders(tmp_path)
    monkeypatch.setattr(FluxTextEncoder, "load", lambda *_: pytest.fail("loaded"))
    found = later_text_encoder(f"flux:{tmp_path}")
    assert (found.dim, found.pooled_dim) == (16, 12) and found.count("make it night") > 5
    assert isinstance(later_text_encoder("minilm"), MiniLM)


def test_small_encoders_need_no_cache(tmp_path: Path) -> None:
    assert isinstance(cached_text_encoder("minilm", "cpu", tmp_path / "texts"), MiniLM)
    assert not (tmp_path / "texts").exists()
