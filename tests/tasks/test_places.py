"""Where the home and the store are, and who may make them."""

import os
from pathlib import Path

import pytest

from kontext.errors import StoreError
from tasks.workspace import existing, made, open_engine, places, resolve_recipe


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a home, in an environment that names none."""
    for name in ("KONTEXT_HOME", "KONTEXT_STORE", "KONTEXT_CATALOG"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project" / "photos" / "more"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_the_nearest_home_upwards_is_taken(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places().home == here / ".kontext"
    (tmp_path / "project" / ".kontext").mkdir()
    assert places().home == tmp_path / "project" / ".kontext"
    assert places().store == f"file://{tmp_path}/project/.kontext/store"
    (here / ".kontext").write_text("a file is no home")
    assert places().home == tmp_path / "project" / ".kontext"
    (here.parent / ".kontext").mkdir()
    assert places().home == here.parent / ".kontext"
    monkeypatch.setenv("KONTEXT_HOME", "elsewhere")
    assert places().home == here / "elsewhere"


def test_reading_makes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=f"no kontext home in {here} or above: `kontext run`"):
        existing()
    with pytest.raises(StoreError, match=f"there is no store at file://{here}/stroe"):
        existing("stroe")
    monkeypatch.setenv("KONTEXT_HOME", str(here / "home"))
    with pytest.raises(StoreError, match=f"no kontext home at {here}/home"):
        existing()
    assert list(here.iterdir()) == []
    existing("s3://bucket/prefix")  # whoever opens it will see
    (here / "store").mkdir()
    assert existing("store").store == f"file://{here}/store"


def test_writing_makes_what_is_new_and_says_where(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    assert made(say=said.append) == existing()
    assert said == [f"new home: {here}/.kontext"]
    made("other", said.append)
    assert said[1:] == [f"new store: {here}/other"]
    made("other", said.append)
    monkeypatch.setenv("KONTEXT_HOME", str(here / "named"))  # who names it knows where it is
    made(say=said.append)
    assert len(said) == 2 and (here / "named" / "store").is_dir()


def test_what_cannot_be_made_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=f"{here}/mistyped/store: there is no folder"):
        made("mistyped/store")
    with pytest.raises(StoreError, match="there is no folder"):
        open_engine(resolve_recipe("ci"), places("mistyped/store"))  # as a form of the server may
    assert not (here / "mistyped").exists()
    (here / "file").write_text("")
    for home, why in (
        ("file", "File exists"),
        ("file/home", "no folder"),
        ("no/home", "no folder"),
    ):
        monkeypatch.setenv("KONTEXT_HOME", str(here / home))
        with pytest.raises(StoreError, match=f"cannot make the home {here}/{home}: .*{why}"):
            made()


def test_a_home_that_is_read_only_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / ".kontext" / "store").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(StoreError, match=r"cannot write in the home .*\.kontext: .* read-only"):
        made()
