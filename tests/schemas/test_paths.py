from pathlib import Path

import pytest

from schemas.paths import expanded


def test_a_home_is_expanded_and_an_unknown_users_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/pictures") == Path("/somewhere/pictures")
    assert expanded("~nobody-of-that-name/x") == Path("~nobody-of-that-name/x")
    assert expanded("pictures") == Path("pictures")
