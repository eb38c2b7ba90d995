"""What a path of one's own is, before anything is read."""

from pathlib import Path

import pytest

from kontext.data.sources.folder import FolderSource
from kontext.data.sources.found import findings, source_at
from kontext.data.sources.pairs import PairsSource
from kontext.errors import SourceError
from tests.data.layouts.files import lines, put


def test_pairs_are_pairs_and_pictures_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "pairs", {"control/a.png": 1, "target/a.png": 2, "target/a.txt": "go"})
    put(tmp_path / "photos", {"IMG_1.png": 1, "IMG_2.png": 2})
    assert source_at(str(tmp_path / "pairs")) == PairsSource(
        path=str(tmp_path / "pairs"), layout="paired-folders"
    )
    assert source_at(str(tmp_path / "photos")) == FolderSource(path=str(tmp_path / "photos"))


def test_what_we_cannot_read_is_an_error_that_draws_what_we_can(tmp_path: Path) -> None:
    put(tmp_path / "texts", {"a.txt": "x"})
    with pytest.raises(SourceError, match=r"(?s)has no layout that we know.*control/cat\.png"):
        source_at(str(tmp_path / "texts"))
    with pytest.raises(SourceError, match="does not exist"):
        source_at(str(tmp_path / "nowhere"))


def test_findings_of_pairs(tmp_path: Path) -> None:
    files = {f"control/{n}.png": n for n in range(9)} | {f"target/{n}.png": 9 + n for n in range(9)}
    files |= {f"target/{n}.txt": f"edit {n}" for n in range(6)}  # type: ignore[dict-item]
    files |= {"control_2/0.png": 30, "control_2/x.png": 31}
    found = findings(source_at(str(put(tmp_path, files))), samples=2)
    assert (found.layout, found.pictures, found.pairs) == ("paired-folders", 13, 6)
    assert (found.references, found.captions, found.labels) == (1, 0, {})
    assert found.skipped == {"instruction_missing": 3, "not_used": 1, "pair_left_out": 3}
    assert [pair.instruction for pair in found.samples] == ["edit 0", "edit 3"]
    assert found.warnings == [
        "1 file belongs to no pair and is not used, 1 in control_2/",
        "3 pairs have no instruction and are left out, 3 in target/",
    ]


def test_a_second_control_path_that_is_not_understood_is_said(tmp_path: Path) -> None:
    folders = ("control", "target", "second_control", ".cache", "@eaDir")
    files = {f"{folder}/a.png": number for number, folder in enumerate(folders)}
    found = findings(source_at(str(put(tmp_path, files | {"target/a.txt": "go"}))))
    assert (found.pairs, found.references) == (1, 0)
    assert found.skipped == {"hidden": 1, "junk": 1, "not_used": 1}
    assert found.warnings == ["1 file belongs to no pair and is not used, 1 in second_control/"]


def test_files_of_other_kinds_are_said_by_their_kinds(tmp_path: Path) -> None:
    files = {"control/a.png": 0, "target/a.png": 1, "target/a.txt": "go", "notes": "x"}
    files |= {f"clips/{n}.mp4": b"x" for n in range(3)} | {f"control/{n}.CR2": b"x" for n in "ab"}
    found = findings(source_at(str(put(tmp_path, files))))  # type: ignore[arg-type]
    assert found.skipped == {"other_kind": 6}
    assert found.warnings == [
        "6 files are no pictures and no texts, and not read: 3 .mp4, 2 .cr2, 1 other"
    ]


def test_warnings_name_the_folders_with_most(tmp_path: Path) -> None:
    files = {"control/a.png": 0, "target/a.png": 1}
    for number, folder in enumerate("vwxyz"):
        files |= {f"{folder}/{n}.png": 10 * number + n for n in range(2 + number)}
    found = findings(source_at(str(put(tmp_path, files | {"target/a.txt": "go"}))))  # type: ignore[dict-item]
    assert found.warnings == [
        "20 files belong to no pair and are not used, 6 in z/, 5 in y/, 4 in x/ …"
    ]


def test_findings_of_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "labels", {"a__x=1.png": 1, "a__x=2.png": 2, "b__y=1.png": 3, "notes.md": "x"})
    put(tmp_path / "photos", {"a__x=1.png": 1, "b__x=2.png": 2})
    found = findings(source_at(str(tmp_path / "labels")))
    assert (found.layout, found.pictures, found.labels) == ("folder", 3, {"x": 2, "y": 1})
    assert found.warnings == ["1 file does not look like a picture; it is rejected with a reason"]
    (warning,) = findings(source_at(str(tmp_path / "photos"))).warnings
    assert "no edit can be made of this" in warning


def test_instructions_of_names_that_cannot_be_taken_are_said(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": 1, "a__edit=go.png": 2, "b__edit=x.png": 3, "b__edit=y.png": 4})
    found = findings(source_at(str(tmp_path)))
    assert (found.pairs, found.pictures, found.labels) == (1, 2, {})
    assert found.warnings == [
        "2 edited pictures are left out, such as b__edit=x.png: no picture of the same name "
        "without the instruction is beside it"
    ]


def test_findings_of_captions(tmp_path: Path) -> None:
    rows = [{"file_name": "a.png", "text": "a cat"}, {"file_name": "b.png", "text": "a dog"}]
    put(tmp_path, {"a.png": 1, "b.png": 2, "metadata.jsonl": lines(rows)})
    found = findings(source_at(str(tmp_path)))
    assert (found.pairs, found.captions, found.pictures) == (0, 2, 2)
    assert "no edit can be made of this" in found.warnings[0]
