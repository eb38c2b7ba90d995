"""What the fingerprint keeps from one process to the next."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kontext.engine import fingerprint, known_sources
from kontext.engine.known_sources import KnownSources, Read

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
    for cached in (fingerprint.known, fingerprint._parsed):
        cached.cache_clear()
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
    file.write_text(file.read_text().replace(first[module], "f" * 16))
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


@pytest.mark.parametrize(
    "text", ["", "[]", '{"reader": "r"}', '{"reader": "r", "entries": {"a": {"hash": "0"}}}']
)
def test_a_file_that_is_none_of_ours_is_not_used(file: Path, text: str) -> None:
    file.write_text(text)
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
