"""Model files from a folder."""

from pathlib import Path

import pytest

from kontext.store.given import VARIABLE, given_folder


def test_a_model_is_taken_from_the_folder_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert given_folder("a") is None
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "a").mkdir()
    assert given_folder("a") == tmp_path / "a" and not caplog.records
    assert given_folder("b") is None
    assert "has no folder b: its Python package is used" in caplog.text
