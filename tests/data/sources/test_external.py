import hashlib
import os
import sqlite3
import time
from pathlib import Path

import pytest

from kontext.data.sources import external
from kontext.data.sources.base import LARGEST
from kontext.data.sources.external import fingerprint
from kontext.data.sources.folder import FolderSource
from kontext.data.sources.signs import SignSource
from schemas.sections.data import IngestConfig

OLD = 1_600_000_000


def folder_config(root: Path) -> IngestConfig:
    root.mkdir(exist_ok=True)
    return IngestConfig(sources=(FolderSource(path=str(root)),))


def test_it_changes_with_a_folders_files_and_with_a_hash_list(tmp_path: Path) -> None:
    folder, listed = tmp_path / "pictures", tmp_path / "list.csv"
    folder.mkdir()
    config = IngestConfig(
        sources=(FolderSource(path=str(folder)), SignSource()), hash_lists=(str(listed),)
    )
    seen = [fingerprint(config)]
    (folder / "a.png").write_bytes(b"one")
    seen.append(fingerprint(config))
    (folder / "a.png").write_bytes(b"other")
    seen.append(fingerprint(config))
    (folder / "a.png").rename(folder / "b.png")
    seen.append(fingerprint(config))
    listed.write_text("sha256,00")
    seen.append(fingerprint(config))
    assert len(set(seen)) == 5
    assert fingerprint(config) == seen[-1]


def test_a_hash_list_in_the_home_counts_too(tmp_path: Path) -> None:
    """Else a list that grew would be met by images that were let in before."""
    config, home = IngestConfig(sources=(SignSource(),), hash_lists=("list.csv",)), tmp_path
    seen = [fingerprint(config, home)]
    for text in ("sha256,00", "sha256,01"):
        (home / "list.csv").write_text(text)
        seen.append(fingerprint(config, home))
    (home / "hash-lists").mkdir()
    (home / "hash-lists" / "own.csv").write_text("sha256,02")
    seen.append(fingerprint(config, home))
    assert len(set(seen)) == 4


def test_a_file_that_is_refused_unread_is_not_read_for_its_digest(tmp_path: Path) -> None:
    config, film = folder_config(tmp_path / "pictures"), tmp_path / "pictures" / "film.mov"
    with film.open("wb") as file:
        file.truncate(LARGEST + 1)
        seen = [fingerprint(config)]
        file.truncate(1 << 43)  # nobody can read 8 TiB
        seen.append(fingerprint(config))
    assert seen[0] != seen[1] == fingerprint(config)


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what was written just now count as old enough to be trusted by its times."""
    later = time.time_ns() + 10 * external._SETTLED_NS
    monkeypatch.setattr(external.time, "time_ns", lambda: later)


def test_a_rewrite_with_the_same_size_and_time_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, home = folder_config(tmp_path / "pictures"), tmp_path / "home"
    picture = tmp_path / "pictures/a.png"
    picture.write_bytes(b"one")
    os.utime(picture, (OLD, OLD))
    settle(monkeypatch)
    before = fingerprint(config, home)
    time.sleep(0.05)  # longer than the file system's tick
    picture.write_bytes(b"two")
    os.utime(picture, (OLD, OLD))
    assert fingerprint(config, home) != before


def test_a_new_date_or_another_machine_changes_nothing(tmp_path: Path) -> None:
    config = folder_config(tmp_path / "pictures")
    picture = tmp_path / "pictures/a.png"
    picture.write_bytes(b"one")
    before = fingerprint(config, tmp_path / "home")
    os.utime(picture, (OLD, OLD))
    assert fingerprint(config, tmp_path / "home") == before
    assert fingerprint(config, tmp_path / "other-home") == before
    assert fingerprint(config) == before


def test_a_settled_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, home = folder_config(tmp_path / "pictures"), tmp_path / "home"
    (tmp_path / "pictures/a.png").write_bytes(b"one")
    fingerprint(config, home)  # too fresh to be trusted by its times alone
    settle(monkeypatch)
    before = fingerprint(config, home)
    reads: list[object] = []
    real = external.hashlib.file_digest
    monkeypatch.setattr(external.hashlib, "file_digest", lambda *a: (reads.append(a), real(*a))[1])
    assert fingerprint(config, home) == before and not reads
    (tmp_path / "pictures/b.png").write_bytes(b"two")
    assert fingerprint(config, home) != before and len(reads) == 1


def test_what_is_kept_points_back_at_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that the hash gate refuses were looked at too: neither name nor hash may stay."""
    config, home = folder_config(tmp_path / "pictures"), tmp_path / "home"
    (tmp_path / "pictures/secretname.png").write_bytes(b"one")
    settle(monkeypatch)
    fingerprint(config, home)
    with sqlite3.connect(home / external.CACHE) as database:
        (row,) = database.execute("SELECT * FROM sealed").fetchall()
    path = bytes((tmp_path / "pictures/secretname.png").absolute())
    found = (home / external.CACHE).read_bytes() + str(row).encode()
    for start in (b"", external._OWN):  # nor can anybody without the key ask whether it was there
        for what in (b"one", path):
            digest = hashlib.sha256(start + what).digest()
            assert digest not in found and digest.hex().encode() not in found
    assert b"secretname" not in found and len(row[-1]) == 32


def test_digests_without_a_key_of_an_earlier_version_are_forgotten(tmp_path: Path) -> None:
    config, home = folder_config(tmp_path / "pictures"), tmp_path / "home"
    (home / "cache").mkdir(parents=True)
    with sqlite3.connect(home / external.CACHE) as database:
        database.execute("CREATE TABLE digests (path TEXT, content TEXT)")
        database.execute("INSERT INTO digests VALUES ('a', 'secretdigest')")
    database.close()
    assert b"secretdigest" in (home / external.CACHE).read_bytes()
    fingerprint(config, home)
    assert b"secretdigest" not in (home / external.CACHE).read_bytes()
