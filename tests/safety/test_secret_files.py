from pathlib import Path

import pytest

from kontext.errors import ExchangeError, GateError
from kontext.safety.secret_files import refuse_shared, write_once


def test_the_first_writer_wins_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "home" / "a.key"
    write_once(path, "first")
    write_once(path, "second")
    assert path.read_text() == "first" and path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_what_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.key"
    write_once(path, "secret")
    refuse_shared(path)
    path.chmod(mode)
    with pytest.raises(GateError, match="chmod 600"):
        refuse_shared(path)
    with pytest.raises(ExchangeError, match="read by others"):
        refuse_shared(path, ExchangeError)
