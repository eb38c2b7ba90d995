import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from kontext.data.sources import plan, read, read_all
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


def test_what_is_not_read_is_skipped_with_its_reason(tmp_path: Path) -> None:
    root, outside = tmp_path / "pictures", tmp_path / "private.png"
    outside.write_bytes(b"secret")
    put(root, "a.png", ".hidden.png", ".git/b.png", "@eaDir/a.png")
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "leak.png").symlink_to(outside)
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    found = read(FolderSource(path=str(root)))
    assert [item.ref for item in found.items] == ["a.png", "inside.png"]
    assert {one.ref: one.reason for one in found.skipped} == {
        ".git": "hidden",
        ".hidden.png": "hidden",
        "@eaDir": "junk",
        "caf\\udce9.png": "undecodable_name",
        "leak.png": "link_outside",
        "loop.png": "link_loop",
    }


@pytest.mark.parametrize(
    "name",
    [
        "IMG_1234",
        "DSC00012",
        "PXL_20240102_123456789",
        "100000_input",
        "image",
        "0007",
        "deadbeef01",
        "p1000123",
        "550e8400-e29b-41d4-a716-446655440000",
        "Screenshot_2024-01-01_at_10.10.10",
    ],
)
def test_names_of_cameras_and_counters_say_nothing(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"{name}.png", "a_stamp.png", "decade.png", "2 cats.png")
    concepts = {item.ref: item.concept for item in plan(FolderSource(path=str(tmp_path)))}
    assert concepts.pop(f"{name}.png") == ""
    assert sorted(concepts.values()) == ["2 cats", "a stamp", "decade"]


def test_folders_of_one_name_share_nothing(tmp_path: Path) -> None:
    put(tmp_path, "a/photos/x.png", "b/photos/x.png", "c/photos/x.png")
    found = read_all([FolderSource(path=str(tmp_path / name / "photos")) for name in "abc"])
    sources = ["folder:photos", "folder:photos (2)", "folder:photos (3)"]
    assert [item.source for item in found.items] == sources
    assert [item.group_key for item in found.items] == [f"{name}:x" for name in sources]


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


def test_an_instruction_in_a_name_is_the_given_one(tmp_path: Path) -> None:
    text = "What if there was a obelisk in the back?"
    put(tmp_path, "7.png", f"7__edit={text}.png", "dog/a__season=summer.png", "dog/x.png")
    put(tmp_path, "dog/a__season=summer__Instruction=Add  snow.jpg", "dog/a__season=winter.png")
    put(tmp_path, "8__edit=.png", "8__prompt=make it v2.5.png")
    found = read(FolderSource(path=str(tmp_path)))
    assert [(pair.contexts, pair.target, pair.instruction) for pair in found.pairs] == [
        (("7.png",), f"7__edit={text}.png", text),
        (("8__edit=.png",), "8__prompt=make it v2.5.png", "make it v2.5"),
        (
            ("dog/a__season=summer.png",),
            "dog/a__season=summer__Instruction=Add  snow.jpg",
            "Add  snow",
        ),
    ]
    labels = {item.ref: item.attributes for item in found.items if item.attributes}
    assert labels == {  # what was edited is in no pair by its labels
        "dog/a__season=summer.png": {"season": "summer"},
        "dog/a__season=winter.png": {"season": "winter"},
    }
    assert len(found.items) == 8 and not found.skipped


def test_an_instruction_without_its_picture_before_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "1__edit=a.png", "1__edit=b.png", "2.png", "2.jpg", "2__edit=c.png")
    put(tmp_path, "3.png", "3__edit=d__prompt=e.png", "4__edit=f.png", "x/4.png")
    found = read(FolderSource(path=str(tmp_path)))
    assert not found.pairs and [item.ref for item in found.items] == [
        "2.jpg", "2.png", "3.png", "x/4.png"
    ]  # fmt: skip
    assert {one.ref: one.reason for one in found.skipped} == {
        "1__edit=a.png": "before_missing",
        "1__edit=b.png": "before_missing",
        "2__edit=c.png": "before_ambiguous",
        "3__edit=d__prompt=e.png": "instruction_ambiguous",
        "4__edit=f.png": "before_missing",
    }
    put(tmp_path / "alone", "1__edit=a.png")
    with pytest.raises(SourceError, match=r"no picture: 1__edit=a\.png: .*no picture 1 without"):
        read(FolderSource(path=str(tmp_path / "alone")))
