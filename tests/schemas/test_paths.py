from pathlib import Path

import pytest

from schemas.paths import expanded, file_or_in_home


def test_a_home_is_expanded_and_an_unknown_users_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/pictures") == Path("/somewhere/pictures")
    assert expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expanded("pictures") == Path("pictures")


def test_a_file_is_where_it_says_or_in_the_home(tmp_path: Path) -> None:
    (tmp_path / "list.csv").touch()
    assert file_or_in_home("list.csv", tmp_path) == tmp_path / "list.csv"
    assert file_or_in_home(str(tmp_path / "list.csv"), None) == tmp_path / "list.csv"
    assert file_or_in_home("list.csv", None) is None
    assert file_or_in_home("~nobody-of-that-name/list.csv", tmp_path) is None
