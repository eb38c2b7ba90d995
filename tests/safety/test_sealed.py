"""Encrypted lists: opened with the home's key alone, and never half written."""

from pathlib import Path

import pytest

from kontext.errors import GateError
from kontext.safety import sealed
from kontext.safety.hashes import HashGate, load_hash_list
from kontext.safety.list_files import lists_digest
from kontext.safety.proof import proved_gate
from schemas.sections.data import IngestConfig

pyrage = pytest.importorskip("pyrage")

TEXT = "# provider: p\n# version: 1\n# date: 2026-01-01\ntype,value,record\nmd5,{},7\n"
LIST = TEXT.format("00" * 16)


def put(home: Path, text: str = LIST) -> Path:
    path = home / "hash-lists" / "p.age"
    sealed.write(path, text, home)
    return path


def test_another_program_opens_it_with_the_key(tmp_path: Path) -> None:
    path = put(tmp_path)
    assert sealed.read(path, tmp_path) == LIST
    assert path.read_bytes().startswith(b"age-encryption.org/v1\n")
    identity = pyrage.x25519.Identity.from_str((tmp_path / "lists.key").read_text().strip())
    assert pyrage.decrypt(path.read_bytes(), [identity]).decode() == LIST
    assert {p.name: p.stat().st_mode & 0o777 for p in (path, tmp_path / "lists.key")} == {
        "p.age": 0o600, "lists.key": 0o600
    }  # fmt: skip


def test_a_write_that_fails_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kontext.safety.sealed.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        put(tmp_path, TEXT.format("11" * 16))
    assert sealed.read(path, tmp_path) == LIST and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("harm", ["gone", "open", "another", "no key", "damaged", "cut"])
def test_what_cannot_be_opened_is_an_error_and_no_gate(tmp_path: Path, harm: str) -> None:
    path, key = put(tmp_path), tmp_path / "lists.key"
    if harm == "gone":
        key.unlink()
    elif harm == "open":
        key.chmod(0o644)
    elif harm == "another":
        key.write_text(str(pyrage.x25519.Identity.generate()))
    elif harm == "no key":
        key.write_text("AGE-SECRET-KEY-1nonsense")
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-20] if harm == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(GateError, match=r"p\.age|lists\.key") as error:
        load_hash_list(path, tmp_path)
    assert "00" * 16 not in str(error.value) and "1nonsense" not in str(error.value)
    for ask in (
        lambda: lists_digest((), tmp_path),
        lambda: HashGate.from_config(IngestConfig(), tmp_path),
        lambda: proved_gate(IngestConfig(), tmp_path),
    ):
        with pytest.raises(GateError):
            ask()
    if harm == "gone":
        with pytest.raises(GateError, match="encrypted with it"):
            put(tmp_path)  # another key is not made in silence
        assert not key.exists()


def test_it_counts_by_its_hashes_and_is_in_every_gate(tmp_path: Path) -> None:
    put(tmp_path)
    digest = lists_digest((), tmp_path)
    put(tmp_path, LIST.replace("2026-01-01", "2026-01-09").replace(",7", ",8"))
    assert lists_digest((), tmp_path) == digest
    put(tmp_path, TEXT.format("11" * 16))
    assert lists_digest((), tmp_path) != digest
    assert "p@1" in proved_gate(IngestConfig(), tmp_path).version
