from pathlib import Path

import pytest

from kontext.errors import ArtifactError
from tasks.report import export_report


class _Files:
    def __init__(self, folder: Path, digest: str, text: str) -> None:
        self.digest = digest
        self._folder = folder / digest
        (self._folder / "report" / "assets").mkdir(parents=True)
        (self._folder / "report" / "index.html").write_text(text)
        (self._folder / "report" / "assets" / "a.png").write_bytes(b"png")
        (self._folder / "scores.json").write_text("{}")

    def names(self, prefix: str = "") -> list[str]:
        files = (p for p in self._folder.rglob("*") if p.is_file())
        names = (p.relative_to(self._folder).as_posix() for p in files)
        return sorted(name for name in names if name.startswith(prefix))

    def path(self, name: str) -> Path:
        return self._folder / name


def test_latest_is_the_report_asked_for_last(tmp_path: Path) -> None:
    home = tmp_path / "home"
    one, two = _Files(tmp_path, "d1", "one"), _Files(tmp_path, "d2", "two")
    index = export_report(one, home)
    assert index == home / "report" / "latest" / "index.html"
    assert export_report(two, home).read_text() == "two"
    assert export_report(one, home).read_text() == "one"
    assert (home / "report" / "d2" / "index.html").read_text() == "two"
    assert (index.parent / "assets" / "a.png").read_bytes() == b"png"
    assert not (index.parent / "scores.json").exists()


def test_a_report_in_place_is_not_copied_again(tmp_path: Path) -> None:
    files = _Files(tmp_path, "d1", "one")
    index = export_report(files, tmp_path / "home")
    before = index.stat().st_ino
    assert export_report(files, tmp_path / "home").stat().st_ino == before


def test_without_a_report_it_is_an_error(tmp_path: Path) -> None:
    files = _Files(tmp_path, "d1", "one")
    files.path("report/index.html").unlink()
    with pytest.raises(ArtifactError, match="evaluate/d1 has no report"):
        export_report(files, tmp_path / "home")
