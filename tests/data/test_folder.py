from pathlib import Path

import pytest
from pydantic import ValidationError

from kontext.data.sources import plan
from kontext.data.sources.folder import FolderSource, parse_stem
from kontext.errors import SourceError
from schemas.recipe import Recipe


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_groups_labels_and_order(tmp_path: Path) -> None:
    put(
        tmp_path,
        "house/b__season=winter__time=night.png",
        "house/a_small-house__season=summer.PNG",
        "tree__color=red.jpg",
        "tree__color=blue.jpg",
        "deep/er/x.png",
        "notes.txt",
    )
    items = plan(FolderSource(path=str(tmp_path), license_spdx="CC0-1.0", author="me"))
    assert [item.ref for item in items] == [
        "deep/er/x.png",
        "house/a_small-house__season=summer.PNG",
        "house/b__season=winter__time=night.png",
        "notes.txt",
        "tree__color=blue.jpg",
        "tree__color=red.jpg",
    ]
    by_ref = {item.ref: item for item in items}
    night = by_ref["house/b__season=winter__time=night.png"]
    assert night.attributes == {"season": "winter", "time": "night"}
    house = by_ref["house/a_small-house__season=summer.PNG"]
    assert house.group_key == night.group_key and house.concept == "a small house"
    red, blue = by_ref["tree__color=red.jpg"], by_ref["tree__color=blue.jpg"]
    assert red.group_key == blue.group_key != by_ref["notes.txt"].group_key
    assert by_ref["deep/er/x.png"].group_key.endswith(":deep/er")
    assert (red.license_spdx, red.author, red.trusted_svg) == ("CC0-1.0", "me", False)
    assert red.read() == b"tree__color=red.jpg"


def test_hidden_files_and_links_that_leave_are_not_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "pictures", tmp_path / "private.png"
    outside.write_bytes(b"secret")
    put(root, "a.png", ".hidden.png", ".git/b.png")
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "leak.png").symlink_to(outside)
    (root / "gone.png").symlink_to(root / "nothing")
    assert [i.ref for i in plan(FolderSource(path=str(root)))] == ["a.png", "inside.png"]


def test_missing_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        plan(FolderSource(path=str(tmp_path / "nowhere")))
    with pytest.raises(SourceError, match="holds no files"):
        plan(FolderSource(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("plain", ("plain", {})),
        ("a__b=c=d", ("a", {"b": "c=d"})),
        ("snake__case__k=v", ("snake__case", {"k": "v"})),
        ("a__=v", ("a__=v", {})),
        ("a__k=", ("a", {"k": ""})),
    ],
)
def test_parse_stem(stem: str, expected: tuple[str, dict[str, str]]) -> None:
    assert parse_stem(stem) == expected


@pytest.mark.parametrize("path", ["~nobody-of-that-name/pictures", "pictures/none"])
def test_a_folder_that_is_not_there_is_said_so(path: str) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        plan(FolderSource(path=path))


def test_a_path_with_nul_is_refused() -> None:
    for recipe in ({"path": "a\0b"}, {"path": "~a\0b"}):
        with pytest.raises(ValidationError, match="NUL"):
            FolderSource.model_validate(recipe)
        with pytest.raises(ValidationError, match="NUL"):
            Recipe.model_validate({"ingest": {"sources": [{"kind": "folder", **recipe}]}})
