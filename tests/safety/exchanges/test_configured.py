"""What a home fetches from: private files, whose contents no error quotes."""

from pathlib import Path

import pytest

from kontext.errors import ExchangeError
from kontext.safety.exchanges.base import user_and_password
from kontext.safety.exchanges.configured import configured


def put(home: Path, text: str, name: str = "a", mode: int = 0o600) -> Path:
    path = home / "exchanges" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_one_file_is_one_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured(tmp_path) == {}
    put(tmp_path, "kind: ncmec\nenvironment: NGO\n", "b")
    put(tmp_path, 'kind: stopncii\ncredentials: "one,two"\n', "a")
    put(tmp_path, "kind: local-file\npath: x.txt\n", "c")
    found = configured(tmp_path)
    assert list(found) == ["a", "b", "c"]
    assert found["a"].credentials({"TX_STOPNCII_KEYS": "of,all"}) == "one,two"
    assert found["b"].credentials({"TX_NCMEC_CREDENTIALS": "me:it"}) == "me:it"
    assert found["c"].credentials({}) == ""
    with pytest.raises(ExchangeError, match="TX_NCMEC_CREDENTIALS"):
        found["b"].credentials({})
    assert "one,two" not in repr(found) + str(found["a"].request())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: other\n", "kind is one of local-file, ncmec, stopncii, tech-against-terrorism"),
        ("- kind\n", "kind is one of"),
        ("kind: ncmec\n", "environment: Field required"),
        ("kind: ncmec\nenvironment: no name\n", "environment: "),
        ("kind: stopncii\nkeys: geheim\n", "keys: Extra inputs"),
        ("kind: stopncii\ncredentials: [geheim]\n", "credentials: "),
        ("kind: stopncii\nurl: http://example.org/geheim\n", "url: .*https"),
        ("kind: stopncii\nurl: http://localhost.geheim.org\n", "url: .*https"),
        ("kind: stopncii\ncredentials: 'geheim\n", "line . *"),
    ],
)
def test_a_wrong_file_is_named_and_not_quoted(tmp_path: Path, text: str, said: str) -> None:
    put(tmp_path, text)
    with pytest.raises(ExchangeError, match=said) as error:
        configured(tmp_path)
    assert "exchanges/a.yaml" in str(error.value) and "geheim" not in str(error.value)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "kind: stopncii\n", mode=0o640)
    with pytest.raises(ExchangeError, match="chmod 600"):
        configured(tmp_path)
    put(tmp_path, "kind: stopncii\n").rename(tmp_path / "exchanges" / "A b.yaml")
    with pytest.raises(ExchangeError, match="small letters"):
        configured(tmp_path)


def test_an_account_has_two_parts() -> None:
    assert user_and_password("me:a:b") == ("me", "a:b")
    for wrong in ("me", "me:", ":it"):
        with pytest.raises(ValueError, match="USER:PASSWORD"):
            user_and_password(wrong)
