from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from kontext.data.packed import Pack, Pairs, Texts, read_pack, write_pack
from kontext.data.pair_tensors import NO_CONTEXT, gather
from kontext.errors import WeightsError
from tests.data.pictures import scene


def small(seed: int = 0, images: int = 6, texts: int = 4, side: int = 32) -> Pack:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(5)[None] < torch.randint(1, 6, (texts, 1), generator=draw)
    tokens = torch.randn(texts, 5, 12, generator=draw) * mask[..., None]
    pairs = 9

    def column(high: int) -> torch.Tensor:
        return torch.randint(high, (pairs,), generator=draw)

    context = column(images)
    context[:2] = NO_CONTEXT
    return Pack(
        images=np.stack([scene(seed + n, side) for n in range(images)]),
        texts=Texts.of(tokens, mask, torch.randn(texts, 7, generator=draw)),
        pairs=Pairs(
            column(images),
            context,
            column(texts),
            column(2),
            torch.arange(pairs) % 3,
            _references(pairs, images) if seed % 2 else None,
        ),
        instructions=[f"text {n}" for n in range(texts)],
        categories=("local", "t2i"),
        features={"stem.weight": torch.randn(3, 3, generator=draw).half()},
        recipe={"name": "tiny"},
    )


def _references(pairs: int, images: int) -> torch.Tensor:
    references = torch.full((pairs, 2), NO_CONTEXT)
    references[3, 0], references[4] = images - 1, torch.tensor([0, images - 1])
    return references


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 3))
def test_what_is_packed_is_what_is_read(seed: int, images: int, parts: int) -> None:
    import tempfile

    pack = small(seed, images)
    with tempfile.TemporaryDirectory() as folder:
        digest = write_pack(pack, Path(folder) / "a.pack", parts)
        found = read_pack(Path(folder) / "a.pack")
        assert [path.name for path in Path(folder).iterdir()] == ["a.pack"]
    assert found.digest == digest
    assert np.array_equal(found.images, pack.images)
    for name in ("target", "context", "text", "category", "split"):
        assert torch.equal(getattr(found.pairs, name), getattr(pack.pairs, name))
    assert (found.pairs.references is None) == (pack.pairs.references is None)
    if found.pairs.references is not None and pack.pairs.references is not None:
        assert torch.equal(found.pairs.references, pack.pairs.references)
    assert torch.equal(found.texts.padded(), pack.texts.padded())
    assert torch.equal(found.texts.pooled, pack.texts.pooled)
    assert found.instructions == pack.instructions and found.categories == pack.categories
    assert found.features.keys() == pack.features.keys() and found.recipe == pack.recipe


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    written = set()
    for name in "abcdefgh":  # an order left to chance shows in eight, if not in two
        write_pack(small(3), tmp_path / name)
        written.add((tmp_path / name).read_bytes())
    assert len(written) == 1


def test_text_states_keep_their_padding_and_nearly_their_values() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    tokens = torch.randn(2, 3, 64) * mask[..., None]
    padded = Texts.of(tokens, mask, torch.zeros(2, 1)).padded().float()
    assert torch.equal(padded[~mask], torch.zeros(3, 64))
    error = (padded - tokens).abs().amax(dim=2)
    assert bool((error <= tokens.abs().amax(dim=2) * (0.5 / 127 + 1e-3)).all())


def test_splits_are_pairs_over_the_same_banks() -> None:
    pack = small(1)
    latents = torch.randn(len(pack.images), 4, 4, 4)
    data = pack.tensors(latents, "val", torch.device("cpu"))
    rows = torch.nonzero(pack.pairs.split == 1).flatten()
    assert torch.equal(data.target, pack.pairs.target[rows])
    assert data.references is not None and data.references.tolist()[1] == [0, 5]  # pair 4
    batch = gather(data, data.plain_edits())
    assert batch.context is not None and len(batch.context) == len(data.edits()) - 1
    shown = set(pack.images_of("val").tolist())
    told = (data.target, data.context, data.references.flatten())
    assert shown == {row for column in told for row in column.tolist()} - {NO_CONTEXT}


def test_images_that_share_pixels_cost_little(tmp_path: Path) -> None:
    base = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    variants = np.repeat(base[None], 40, 0)
    variants[:, :4, :4] = np.arange(40, dtype=np.uint8)[:, None, None, None]
    from kontext.data.packed import compress_images

    assert len(compress_images(variants)) < 2 * base.nbytes


def test_what_is_no_pack_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pack"
    path.write_bytes(b"hello")
    with pytest.raises(WeightsError, match="not a pack"):
        read_pack(path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_pack(tmp_path / "none")
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="not a pack"):
        read_pack(path)
    write_pack(small(), path)
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="damaged"):
        read_pack(path)
    with pytest.raises(WeightsError, match="no 'test' pairs"):
        pack = small()
        pack.pairs.split.zero_()
        pack.tensors(torch.zeros(6, 4, 4, 4), "test", torch.device("cpu"))
