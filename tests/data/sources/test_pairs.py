"""Pairs of one's own: read whole, and named by what they are."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from kontext.data.layouts import layouts
from kontext.data.sources import modules_named, read, read_all
from kontext.data.sources.external import fingerprint
from kontext.data.sources.pairs import PairsSource
from kontext.errors import SourceError
from schemas.sections.data import IngestConfig
from tests.data.layouts.files import lines, parquet, picture, png, put


def folders(root: Path) -> Path:
    return put(
        root,
        {"control/a.png": 1, "target/a.png": 2, "target/a.txt": "make it red"}
        | {"control/b.png": 1, "target/b.png": 3, "control/lone.png": 4},
    )


def test_items_pairs_and_what_is_neither(tmp_path: Path) -> None:
    root = folders(tmp_path / "mine")
    found = read(PairsSource(path=str(root), license_spdx="CC0-1.0", author="me"))
    assert [(item.source, item.ref) for item in found.items] == [
        ("pairs:mine", "control/a.png"),
        ("pairs:mine", "target/a.png"),
    ]
    assert [item.read() for item in found.items] == [png(1), png(2)]
    (pair,) = found.pairs
    assert (pair.target, pair.contexts) == ("target/a.png", ("control/a.png",))
    assert pair.instruction == "make it red" and pair.row == "target/a.png"
    assert {one.ref: one.reason for one in found.skipped} == {
        "target/b.png": "instruction_missing",
        "control/b.png": "pair_left_out",
        "control/lone.png": "not_used",
    }
    assert {item.license_spdx for item in found.items} == {"CC0-1.0"}


def test_pictures_inside_a_table_and_its_sets_licence(tmp_path: Path) -> None:
    rows = [
        {"img_id": "5", "turn_index": turn, "source_img": picture(turn)}
        | {"mask_img": None, "instruction": f"turn {turn}", "target_img": picture(turn + 1)}
        for turn in (1, 2)
    ]
    path = parquet(tmp_path / "m.parquet", rows, ["source_img", "mask_img", "target_img"])
    found = read(PairsSource(path=str(path)))
    assert [item.read() for item in found.items] == [png(1), png(2), png(2), png(3)]
    assert {item.group_key for item in found.items} == {"pairs:m.parquet:5"}
    assert {item.license_spdx for item in found.items} == {"CC-BY-4.0"}


def test_two_sets_of_one_name_keep_their_pairs_apart(tmp_path: Path) -> None:
    paths = [folders(tmp_path / name / "mine") for name in "ab"]
    found = read_all([PairsSource(path=str(path)) for path in paths])
    assert [pair.source for pair in found.pairs] == ["pairs:mine", "pairs:mine (2)"]
    assert {one.source for one in found.skipped} == {"pairs:mine", "pairs:mine (2)"}


def test_clear_errors(tmp_path: Path) -> None:
    put(tmp_path / "photos", {"a.png": 1})
    put(tmp_path / "wordless", {"control/a.png": 1, "target/a.png": 2})
    for path, layout, words in (
        ("nowhere", "", "does not exist"),
        ("photos", "", "no layout of pairs that we know:(?s:.*)pairs/control/cat.png"),
        ("photos", "tabels", "no layout 'tabels'; there are .*tables"),
        ("wordless", "", "no row is a pair: 1 instruction_missing"),
    ):
        with pytest.raises(SourceError, match=words):
            read(PairsSource(path=str(tmp_path / path), layout=layout))
    with pytest.raises(ValidationError, match="NUL"):
        PairsSource(path="a\0b")


@pytest.mark.parametrize("table", [True, False])
def test_texts_and_pictures_are_part_of_the_identity(tmp_path: Path, table: bool) -> None:
    row = {"input_image": "control/a.png", "edited_image": "target/a.png", "instruction": "go"}
    root = put(folders(tmp_path), {"pairs.jsonl": lines([row])} if table else {})
    path = root / "pairs.jsonl" if table else root
    config = IngestConfig(sources=(PairsSource(path=str(path)),))
    seen = [fingerprint(config)]
    (root / "target/a.png").write_bytes(png(9))
    seen.append(fingerprint(config))
    words = root / ("pairs.jsonl" if table else "target/a.txt")
    words.write_text(words.read_text().replace("go", "stop").replace("red", "blue"))
    seen.append(fingerprint(config))
    assert len(set(seen)) == 3 and fingerprint(config) == seen[-1]


def test_every_layout_counts_for_the_stage() -> None:
    named = modules_named(IngestConfig(sources=(PairsSource(path="x"),)))
    assert named[0] == "kontext.data.sources.pairs"
    assert set(named[1:]) == {module.__name__ for module in layouts().values()}
