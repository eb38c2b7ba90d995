"""Texts whose states are large are encoded few at a time, and come out the same."""

from collections.abc import Sequence

import pytest
import torch

from kontext.data.encoded import latents
from kontext.data.encoded.latents import encode_texts
from kontext.models.text.encoders import Encoded


class Lengths:
    """States that say how long a text is."""

    digest, dim, pooled_dim = "lengths", 4, 2

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode(self, texts: Sequence[str], length: int) -> Encoded:
        self.asked.append(len(texts))
        sizes = torch.tensor([float(len(text)) for text in texts])
        tokens = sizes[:, None, None].expand(-1, length, self.dim).clone()
        mask = torch.ones(len(texts), length, dtype=torch.bool)
        return tokens, mask, sizes[:, None].expand(-1, self.pooled_dim).clone()

    def count(self, text: str) -> int:
        return len(text)


def test_states_of_many_texts_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, whole, parted = ["a" * n for n in range(7)], Lengths(), Lengths()
    wanted = encode_texts(whole, texts, 8)
    monkeypatch.setattr(latents, "_STATE_BYTES", 3 * 4 * 8 * Lengths.dim)
    found = encode_texts(parted, texts, 8)
    assert whole.asked == [7] and parted.asked == [3, 3, 1]
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
