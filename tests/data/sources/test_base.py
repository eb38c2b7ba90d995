"""An item is read as it was planned, or not at all."""

import os
from pathlib import Path

import pytest

from kontext.data.sources import read_all
from kontext.data.sources.folder import FolderSource
from kontext.data.sources.pairs import PairsSource
from kontext.errors import ChangedError, SourceError
from tests.data.layouts.files import parquet, picture, png


def test_a_file_that_was_changed_and_given_its_times_back_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "pictures" / "a.png"
    file.parent.mkdir()
    file.write_bytes(b"first")
    times = file.stat()
    (item,) = read_all([FolderSource(path=str(file.parent))]).items
    assert item.read() == b"first"
    file.write_bytes(b"other")  # of the same size
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ChangedError, match=r"a\.png was changed while it was read"):
        item.read()


def test_a_picture_in_a_table_that_was_changed_is_not_read(tmp_path: Path) -> None:
    rows = [{"source": picture(1), "target": picture(2), "text": "go"}]
    path = parquet(tmp_path / "t.parquet", rows, ["source", "target"])
    first, _ = read_all([PairsSource(path=str(path))]).items
    assert first.read() == png(1)
    os.utime(path)
    with pytest.raises(ChangedError):
        first.read()


def test_a_file_that_is_gone_is_a_source_error(tmp_path: Path) -> None:
    file = tmp_path / "pictures" / "a.png"
    file.parent.mkdir()
    file.write_bytes(b"first")
    (item,) = read_all([FolderSource(path=str(file.parent))]).items
    file.unlink()
    with pytest.raises(SourceError):
        item.read()
