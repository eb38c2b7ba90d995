import multiprocessing
import stat

import pytest

from kontext.errors import GateError
from kontext.safety.ids import KEY_FILE, run_key, subject_hmac


def test_key_is_made_once_private_and_kept(tmp_path):
    home = tmp_path / "home"
    key = run_key(home)
    assert len(key) == 32 and run_key(home) == key
    assert stat.S_IMODE((home / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [KEY_FILE]


def test_two_processes_agree_on_one_key(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        keys = pool.map(run_key, [tmp_path] * 8)
    assert len(set(keys)) == 1


@pytest.mark.parametrize("text", ["", "not hex", "ab" * 31])
def test_a_damaged_key_is_refused(tmp_path, text):
    (tmp_path / KEY_FILE).write_text(text)
    with pytest.raises(GateError, match="safety key"):
        run_key(tmp_path)


def test_hmac_joins_and_hides():
    one, other = b"a" * 32, b"b" * 32
    assert subject_hmac("id", one) == subject_hmac("id", one) != subject_hmac("id", other)
    assert len(subject_hmac("id", one)) == 64
