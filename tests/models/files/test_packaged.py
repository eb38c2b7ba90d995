"""Where the weights that no recipe names are found."""

import shutil
from pathlib import Path

import pytest

from kontext.errors import WeightsError
from kontext.models.features.efficientnet import load_features
from kontext.models.files.packaged import efficientnet_file, minilm_folder, model_files
from kontext.models.text.encoders import load_text_encoder
from kontext.safety.wording.packed import encoder_file
from kontext.store.given import VARIABLE


def test_a_folder_of_models_gives_what_the_packages_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    features, text = load_features().digest, load_text_encoder().digest
    for name, path in model_files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / name)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert minilm_folder() == tmp_path / "minilm"
    assert efficientnet_file().parent == tmp_path / "efficientnet-lite0"
    assert encoder_file().parent == tmp_path / "e5-small"
    assert (load_features().digest, load_text_encoder().digest) == (features, text)
    assert all(path.is_relative_to(tmp_path) for path in model_files().values())


def test_a_folder_without_a_model_leaves_it_to_the_package_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert not minilm_folder().is_relative_to(tmp_path)
    assert "has no folder minilm: its Python package is used" in caplog.text
    (tmp_path / "efficientnet-lite0").mkdir()
    with pytest.raises(WeightsError, match="0 checkpoints"):
        efficientnet_file()
