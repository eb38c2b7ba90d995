import multiprocessing
import secrets
import stat
from pathlib import Path

import pytest

from kontext.errors import GateError
from kontext.safety.keys import KEY_FILE, OTHER_KEYS, key_id, known_keys, run_key, signing_key
from kontext.safety.ledger import HEADS_URL, Ledger
from kontext.store.objects import open_store
from tests.safety.test_ledger import decisions


def test_key_is_made_once_private_and_kept(tmp_path: Path) -> None:
    home = tmp_path / "home"
    key = run_key(home)
    assert len(key) == 32 and run_key(home) == key
    assert stat.S_IMODE((home / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [KEY_FILE]


def test_two_processes_agree_on_one_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        keys = pool.map(run_key, [tmp_path] * 8)
    assert len(set(keys)) == 1


@pytest.mark.parametrize(
    "text", ["", "not hex", "5c" * 31, "00" * 32, "ab" * 32, "0123456789abcdef" * 4]
)
def test_a_damaged_or_a_guessable_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / KEY_FILE).write_text(text)
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(GateError, match="safety key"):
        run_key(tmp_path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    run_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(GateError, match="chmod 600"):
        run_key(tmp_path)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_lost_key_is_never_replaced_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    if elsewhere:
        monkeypatch.setenv(HEADS_URL, f"file://{tmp_path}/bucket")
    store, home = open_store(str(tmp_path / "store")), tmp_path / "home"
    Ledger(store, home).append("ingest", "d1", decisions(1))
    (home / KEY_FILE).unlink()
    with pytest.raises(GateError, match="is gone, but decisions were signed with it"):
        run_key(home)
    assert not (home / KEY_FILE).exists()


def test_a_key_that_another_process_made_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger(open_store(str(tmp_path / "store")), tmp_path).append("ingest", "d1", decisions(1))
    made, exists = run_key(tmp_path), Path.exists
    before = iter([False])  # what our first look found; then the other made it, and signed
    monkeypatch.setattr(Path, "exists", lambda path: next(before, exists(path)))
    assert run_key(tmp_path) == made


def test_ids_and_signatures_have_keys_of_their_own(tmp_path: Path) -> None:
    key = run_key(tmp_path)
    assert len({key, signing_key(key)}) == 2 and key_id(key) not in key.hex()
    assert key_id(key) == key_id(key) != key_id(secrets.token_bytes(32))


def test_keys_of_before_are_known_and_checked(tmp_path: Path) -> None:
    key, old = run_key(tmp_path), secrets.token_bytes(32)
    (tmp_path / OTHER_KEYS).mkdir()
    path = tmp_path / OTHER_KEYS / "2025.key"
    path.write_text(old.hex())
    path.chmod(0o600)
    assert known_keys(tmp_path) == {key_id(key): key, key_id(old): old}
    path.chmod(0o644)
    with pytest.raises(GateError, match="chmod 600"):
        known_keys(tmp_path)
    assert known_keys(tmp_path / "none") == {}
