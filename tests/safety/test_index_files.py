"""Indexes of long lists: made once, whole or not at all, and nobody else's to read."""

import datetime as dt
import os
import stat
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from kontext.safety import index_files, pdq_index, sealed
from kontext.safety.hashes import HashGate, load_hash_list
from kontext.safety.index_files import folder_in, opened
from kontext.safety.pdq_index import PdqIndex
from schemas.sections.data import IngestConfig

BANK = np.random.default_rng(0).integers(0, 256, (2000, 32), dtype=np.uint8)


def modes(folder: Path) -> set[tuple[bool, int]]:
    found = (path.stat().st_mode for path in (folder, *folder.rglob("*")))
    return {(stat.S_ISDIR(mode), stat.S_IMODE(mode)) for mode in found}


def test_it_is_built_once_and_only_its_owner_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "umask", os.umask)
    before = os.umask(0)
    try:
        first = opened(BANK, 31, folder_in(tmp_path))
    finally:
        os.umask(before)
    assert modes(folder_in(tmp_path)) == {(True, 0o700), (False, 0o600)}
    monkeypatch.setattr(index_files, "build", None)  # cannot be called again
    second = opened(BANK, 31, folder_in(tmp_path))
    assert all((first[name] == second[name]).all() for name in first)
    assert isinstance(second["rows"], np.memmap) and (second["rows"] == BANK).all()


def test_another_list_has_another_index_and_unused_ones_go(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    opened(BANK, 31, folder)
    (old,) = (path for path in folder.iterdir() if path.is_dir())
    opened(BANK[1:], 31, folder)
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2
    month = time.time() - 31 * 86_400
    os.utime(old, (month, month))
    opened(BANK[2:], 31, folder)
    assert not old.exists() and len([p for p in folder.iterdir() if p.is_dir()]) == 2


@pytest.mark.parametrize("name", ["rows.npy", "ids.npy", "starts.npy", "whole.json"])
def test_a_damaged_one_is_built_again(tmp_path: Path, name: str) -> None:
    first = opened(BANK, 31, folder_in(tmp_path))
    kept = {array: first[array].copy() for array in first}
    (path,) = folder_in(tmp_path).rglob(name)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    again = opened(BANK, 31, folder_in(tmp_path))
    assert all((kept[array] == again[array]).all() for array in kept)


def _size(folder: Path) -> int:
    return len(opened(BANK, 31, folder)["rows"])


def test_processes_that_ask_at_once_get_the_same_one(tmp_path: Path) -> None:
    with get_context("fork").Pool(3) as pool:
        assert pool.map(_size, [folder_in(tmp_path)] * 6) == [len(BANK)] * 6
    assert not list(folder_in(tmp_path).glob("draft-*"))


def test_a_gate_keeps_the_index_of_long_lists_in_its_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdq_index, "_SHORT", 100)
    path = tmp_path / "list.csv"
    rows = "".join(f"pdq,{entry.tobytes().hex()}\n" for entry in BANK)
    path.write_text("# provider: p\n# version: 1\n# date: 2026-01-01\ntype,value\n" + rows)
    gate = HashGate([load_hash_list(path)], home=tmp_path)
    assert len(gate.lists[1].pdq) == len(BANK) and len(list(tmp_path.rglob("whole.json"))) == 1
    assert (gate.lists[1].pdq == BANK).all()
    assert len(PdqIndex(BANK[:100], tmp_path / "none")) == 100 and not (tmp_path / "none").exists()


def test_encrypted_lists_have_their_index_in_memory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyrage")
    monkeypatch.setattr(pdq_index, "_SHORT", 100)
    home, memory = tmp_path / "home", tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(index_files, "_MEMORY", memory)
    rows = "".join(f"pdq,{entry.tobytes().hex()},0\n" for entry in BANK)
    head = f"# provider: p\n# version: 1\n# date: {dt.date.today()}\ntype,value,record\n"
    sealed.write(home / "hash-lists" / "p.age", head + rows, home)
    gate = HashGate.from_config(IngestConfig(allow_unlisted=False), home)
    assert (gate.lists[1].pdq == BANK).all()
    (own,) = memory.iterdir()
    assert own.stat().st_mode & 0o777 == 0o700 and len(list(own.rglob("whole.json"))) == 1
    assert not list(home.rglob("whole.json"))
    monkeypatch.setattr(index_files, "_ENTRY", 1 << 60)  # no room: every process has its own
    assert index_files.memory_folder(home, len(BANK)) is None
