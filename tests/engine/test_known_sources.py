"""What the fingerprint keeps from one process to the next."""

import json
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from importlib.util import cache_from_source
from pathlib import Path

import pytest

import kontext
from kontext.engine import fingerprint, known_sources
from kontext.engine.known_sources import KnownSources, Read
from schemas import syntax

READ = Read("0" * 16, ("kontext.errors",), ("*.json",), None)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where it is kept, and read anew by the fingerprint."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(known_sources, "FILE", tmp_path / "fingerprints.json")
    anew()
    yield tmp_path / "fingerprints.json"
    anew()


def anew() -> None:
    """Nothing is known, as when a process starts."""
    fingerprint.known.cache_clear()
    fingerprint.forget()


def test_another_process_parses_nothing_and_finds_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed, parse = list[str](), fingerprint.syntax_tree

    def counted(source: str, name: str) -> object:
        parsed.append(name)
        return parse(source, name)

    monkeypatch.setattr(fingerprint, "syntax_tree", counted)

    def process() -> dict[str, str]:
        anew()
        return fingerprint.modules_of(module)

    module = "kontext.safety.policy"
    first, count = process(), len(parsed)
    assert count > 5 and file.exists()
    assert process() == first and len(parsed) == count
    said, text = file.read_text().splitlines()
    text = text.replace(first[module], "f" * 16)
    file.write_text(f"{said}\n{text}")
    assert process() == first  # what is damaged is not used
    anew()
    file.write_text(f"{sha256(text.encode()).hexdigest()}\n{text}")
    assert process()[module] == "f" * 16  # it was read from there


def test_entries_are_of_the_bytes_and_of_the_code_that_reads_them(file: Path) -> None:
    sources = KnownSources(file, "reader")
    sources.put("a", READ)
    sources.save()
    again = KnownSources(file, "reader")
    assert again.get("a") == READ and again.get("b") is None
    assert KnownSources(file, "another").get("a") is None
    again.put("b", READ)
    again.save()
    assert KnownSources(file, "reader").get("a") == READ
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_code_that_changes_while_a_process_runs_is_not_taken_for_its_own(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reader() -> str:
        fingerprint.modules_of("kontext.safety.policy")
        return str(json.loads(file.read_text().partition("\n")[2])["reader"])

    first = reader()
    changed = tmp_path / "syntax.py"
    changed.write_text("# reads otherwise")
    monkeypatch.setattr(syntax, "__file__", str(changed))
    file.unlink()
    anew()
    assert reader() == first


def test_a_file_that_changes_within_a_tick_of_the_clock_is_read_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module, found = tmp_path / "plugged.py", set[str]()
    for number in "12":
        module.write_text(f"X = {number}")
        os.utime(module, (1, 1))
        fingerprint.forget()
        found.add(fingerprint.modules_of("plugged")["plugged"])
    assert len(found) == 2


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"\xff\xfe", b"[" * 10**5, b"0\n{}", b'{"reader": "r", "entries": {}}']
)
def test_a_file_that_is_none_of_ours_is_not_used(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    sources = KnownSources(file, "r")
    assert sources.get("a") is None
    sources.put("a", READ)
    sources.save()
    assert KnownSources(file, "r").get("a") == READ


def test_nothing_is_written_where_python_writes_nothing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = KnownSources(file.parent / "gone" / "x.json", "r")
    gone.put("a", READ)
    gone.save()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sources = KnownSources(file, "r")
    sources.put("a", READ)
    sources.save()
    assert not list(file.parent.iterdir())
    assert sources.get("a") == READ


def test_a_file_that_grows_begins_anew(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_sources, "_MOST", 3)
    sources = KnownSources(file, "r")
    for digest in "abcd":
        sources.put(digest, READ)
    assert [sources.get(digest) is not None for digest in "abcd"] == [False, False, False, True]


def test_it_lies_with_what_this_python_has_compiled() -> None:
    compiled = Path(cache_from_source(kontext.__file__))
    assert known_sources.FILE.parent == compiled.parent
    assert known_sources.FILE.name == f"fingerprints.{sys.implementation.cache_tag}.json"
