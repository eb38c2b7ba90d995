"""Published sets in exactly the layout they are published in, with what is odd in them."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kontext.data.layouts import layout_of, rows_of
from kontext.data.layouts.base import Problem, Row
from kontext.data.layouts.known_sets import KNOWN, UNKNOWN
from kontext.data.layouts.web_picture import WebPicture
from kontext.data.sources.pairs import PairsSource, read
from kontext.errors import SourceError
from tests.data.layouts.files import lines, parquet, picture, png, put
from tests.data.layouts.test_webdataset import tar_bytes

FLICKR = "https://farm8.staticflickr.com/7404/9423051591_cb1bf5c5e1_o.jpg"
CDN = "https://ml-site.cdn-apple.com/datasets/pico-banana-300k/nb/"
Told = tuple[list[str], str, str]


def found(path: Path, layout: str = "tables") -> tuple[list[Row], dict[str, str]]:
    """Rows, and the reason of everything that is none."""
    assert layout_of(path) == layout
    every = list(rows_of(path, layout))
    rows = [one for one in every if isinstance(one, Row)]
    return rows, {one.at: one.reason for one in every if isinstance(one, Problem)}


def told(rows: list[Row]) -> list[Told]:
    return [([one.ref for one in row.contexts], row.target.ref, row.instruction) for row in rows]


def pico(number: int, **more: str) -> dict[str, str]:
    return {
        "open_image_input_url": FLICKR,
        "text": f"Remove flag {number}",
        "output_image": f"images/positive-edit/{number}.png",
        "edit_type": "Remove an existing object",
        "summarized_text": "Flag removed",
        **more,
    }


def test_pico_banana_as_published_is_pairs_of_addresses(tmp_path: Path) -> None:
    rows = [pico(1), pico(2), pico(7), pico(7, text="Something else")]
    put(tmp_path, {"sft.jsonl": lines(rows), "images/positive-edit/2.png": 2})
    pairs, problems = found(tmp_path)
    assert told(pairs) == [
        ([FLICKR], CDN + "images/positive-edit/1.png", "Remove flag 1"),
        ([FLICKR], "images/positive-edit/2.png", "Remove flag 2"),
    ]
    assert pairs[0].contexts[0].part == WebPicture(FLICKR)
    assert pairs[0].kind == "Remove an existing object"
    # whose picture it is nobody can say, so none of its rows is right
    assert problems == {"sft.jsonl:3": "target_shared", "sft.jsonl:4": "target_shared"}


def test_pico_banana_beside_open_images(tmp_path: Path) -> None:
    rows = [pico(1, local_input_image="openimages/a.png"), pico(2, local_input_image="gone.png")]
    files: dict[str, bytes | str | int] = {"openimages/a.png": 1, "sft.jsonl": lines(rows)}
    files |= {f"images/positive-edit/{number}.png": 1 + number for number in (1, 2)}
    pairs, problems = found(put(tmp_path, files))
    assert told(pairs) == [(["openimages/a.png"], "images/positive-edit/1.png", "Remove flag 1")]
    assert problems["sft.jsonl:2"] == "picture_missing"


EDITS_WITHOUT_BEFORE = {
    "an instruction": {"image": "a.png", "instruction": "make it red"},
    "an edit prompt and a caption": {"image": "a.png", "edit_prompt": "red", "caption": "a cat"},
    "an unknown edit column": {"image": "a.png", "editing_instruction": "red", "text": "a cat"},
    "an edited picture": {"edited_image": "a.png", "prompt": "red"},
    "a picture nobody knows": {"output_image": "a.png", "my_start": "b.png", "text": "red"},
}


@pytest.mark.parametrize("row", EDITS_WITHOUT_BEFORE.values(), ids=EDITS_WITHOUT_BEFORE)
def test_an_edit_is_never_a_caption(tmp_path: Path, row: dict[str, str]) -> None:
    put(tmp_path, {"t.jsonl": lines([row, row]), "a.png": 1, "b.png": 2})
    pairs, problems = found(tmp_path)
    assert not pairs and problems["t.jsonl:1"] == problems["t.jsonl:2"] == "context_missing"
    with pytest.raises(SourceError, match=r"2 context_missing.*no column has the picture before"):
        read(PairsSource(path=str(tmp_path)))


def test_an_edit_in_parquet_is_never_a_caption(tmp_path: Path) -> None:
    rows = [{"edited_image": picture(1), "edit_prompt": "red"}] * 9
    pairs, problems = found(parquet(tmp_path / "t.parquet", rows, ["edited_image"]))
    assert not pairs and len(problems) == 9 and set(problems.values()) == {"context_missing"}


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.png", "caption": "a cat", "depth_image": "b.png"},
        {"file_name": "a.png", "text": "a cat", "original_image_url": FLICKR},
        {"output_image": "a.png", "input_prompt": "a cat", "prompt": "a cat"},
        {"target_image": "a.png", "text": "a cat", "source_url": FLICKR},
    ],
)
def test_captions_stay_captions(tmp_path: Path, row: dict[str, str]) -> None:
    put(tmp_path, {"t.jsonl": lines([row]), "a.png": 1, "b.png": 2})
    pairs, _ = found(tmp_path)
    assert told(pairs) == [([], "a.png", "a cat")]


def test_an_address_before_and_a_file_after_are_a_pair(tmp_path: Path) -> None:
    row = {"source_image_url": FLICKR, "edited_image": "a.png", "text": "red"}
    pairs, _ = found(put(tmp_path, {"t.jsonl": lines([row]), "a.png": 1}))
    assert told(pairs) == [([FLICKR], "a.png", "red")]


OWN_TABLES: list[dict[str, object]] = [
    {"source_image": 1, "edited_image": 2, "edit_prompt": "red"},
    {"source_image": 1, "edited_image": 2, "edit_instruction": "red"},
    {"source_image": 1, "edited_image": 2, "edit_instruction": "red", "edit_task": "color"},
    {"source_img": 1, "target_img": 2, "instruction": "red", "img_id": "7"},
    {"src_img": 1, "edited_img": 2, "edited_prompt_list": ["red"], "task": "color"},
    {"source_image": 1, "edit_image_1": 2, "instruction_1": "red"},
]


@pytest.mark.parametrize("row", OWN_TABLES, ids=lambda row: "-".join(row))
def test_plain_names_claim_no_licence(tmp_path: Path, row: dict[str, object]) -> None:
    cells = {n: picture(v) if isinstance(v, int) else v for n, v in row.items()}
    inside = [name for name, value in row.items() if isinstance(value, int)]
    path = parquet(tmp_path / "data" / "train.parquet", [cells], inside)
    for place in (path, tmp_path):
        items = read(PairsSource(path=str(place))).items
        assert {item.license_spdx for item in items} == {UNKNOWN}
    named = read(PairsSource(path=str(path), license_spdx="CC0-1.0"))
    assert {item.license_spdx for item in named.items} == {"CC0-1.0"}


ULTRAEDIT: dict[str, object] = {
    **dict.fromkeys(("clip_sim_source", "clip_sim_target", "clip_sim_dir", "dinov2_sim"), 0.5),
    "source_caption": "a", "target_caption": "b", "edit_prompt": "red",
    "source_image": 1, "edited_image": 2, "mask_image": None,
}  # fmt: skip
SCALEEDIT: dict[str, object] = {
    "id": "1", "edit_task": "style_transfer", "edit_instruction": "red",
    "source_image": 1, "edited_image": 2,
}  # fmt: skip


def test_what_a_set_alone_has_is_its_licence_table_by_table(tmp_path: Path) -> None:
    sets: dict[str, tuple[dict[str, object], str]] = {
        "ultraedit/FreeForm_0.parquet": (ULTRAEDIT, "CC-BY-4.0"),
        "1.1_style_transfer/style_transfer_0000.parquet": (SCALEEDIT, "MIT"),
        "mine/t.parquet": (OWN_TABLES[0], UNKNOWN),
    }
    for name, (row, _) in sets.items():
        cells = {n: picture(v) if isinstance(v, int) else v for n, v in row.items()}
        parquet(tmp_path / name, [cells], ["source_image", "edited_image"])
    for item in read(PairsSource(path=str(tmp_path))).items:
        assert item.license_spdx == sets[item.ref.split(":")[0]][1], item.ref
    (scale,) = found(tmp_path / "1.1_style_transfer")[0]
    assert scale.kind == "style_transfer"


def test_every_claim_rests_on_something() -> None:
    for known in KNOWN:
        assert (known.licence == UNKNOWN) == (not known.only and not known.where), known.name


def test_imgedit_names_its_pictures_in_lists(tmp_path: Path) -> None:
    names = [f"add_part0/{n:03}" for n in range(3)]
    rows = [
        {"input_images": [f"{n}/original.png"], "output_images": [f"{n}/result.png"],
         "prompt": "Add a hat", "task_type": "x"}
        for n in names
    ]  # fmt: skip
    (tmp_path / "Singleturn").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "Singleturn" / "add.parquet")
    for number, name in enumerate(names[:2]):  # stems repeat, and the last row's pixels are missing
        put(tmp_path, {f"{name}/original.png": number, f"{name}/result.png": 10 + number})
    pairs, problems = found(tmp_path)
    assert told(pairs) == [
        ([f"{n}/original.png"], f"{n}/result.png", "Add a hat") for n in names[:2]
    ]
    assert {row.kind for row in pairs} == {"add"}
    assert problems == {"Singleturn/add.parquet:0:2": "picture_missing"}


def test_imgedit_in_several_turns(tmp_path: Path) -> None:
    def turn(before: str, after: str, prompt: str) -> dict[str, object]:
        return {"input_images": [before], "output_images": [after], "prompt": prompt}

    rows = [
        {"data": [turn("0.png", "1.png", "one"), turn("1.png", "2.png", "two")]},
        {"data": [turn("3.png", "4.png", "")]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "version.parquet")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "v.json").write_text(json.dumps(rows[:1]))
    pairs, problems = found(put(tmp_path, {f"{n}.png": n for n in range(5)}))
    both = [(["0.png"], "1.png", "one"), (["1.png"], "2.png", "two")]
    assert told(pairs) == both + both and len({row.chain for row in pairs}) == 1
    assert problems.pop("version.parquet:0:1:turn 1") == "instruction_missing"
    assert problems == {"3.png": "not_used", "4.png": "not_used"}


def test_pico_banana_in_several_turns(tmp_path: Path) -> None:
    files = [
        *({"id": f"edit_turn{n}", "url": f"images/multi-turn/1_turn{n}.png"} for n in (1, 2)),
        {"id": "final_image", "url": "images/multi-turn/1_turn3.png"},
        {"id": "original_input_image", "url": FLICKR},
    ]
    row = {"files": files, "metadata_edit_turn_prompts": ["one", "two", "three"]}
    odd = {"files": files, "metadata_edit_turn_prompts": ["one", "two"]}
    path = put(tmp_path, {"multi_turn.jsonl": lines([row, odd])}) / "multi_turn.jsonl"
    pairs, problems = found(path)
    made = [f"{CDN}images/multi-turn/1_turn{n}.png" for n in (1, 2, 3)]
    assert told(pairs) == [
        ([FLICKR], made[0], "one"), ([made[0]], made[1], "two"), ([made[1]], made[2], "three")
    ]  # fmt: skip
    assert problems == {"multi_turn.jsonl:2": "row_malformed"}
    assert {row.licence for row in pairs} == {"CC-BY-NC-ND-4.0"}


def test_seed_data_edit_has_its_pictures_beside_its_annotations(tmp_path: Path) -> None:
    row = {"source_image": "a/0.png", "edit_image_1": "a/1.png", "instruction_1": "one"}
    one = {"source_image": "images/b/0.png", "target_image": "images/b/1.png", "instruction": "two"}
    put(tmp_path, {
        "multi_turn_editing/annotations/split_0001.jsonl": lines([row]),
        "multi_turn_editing/images/a/0.png": 0, "multi_turn_editing/images/a/1.png": 1,
        "real_editing/annotations/split_0001.jsonl": lines([one]),
        "real_editing/images/b/0.png": 2, "real_editing/images/b/1.png": 3,
    })  # fmt: skip
    pairs, problems = found(tmp_path)
    multi, real = "multi_turn_editing/images/a", "real_editing/images/b"
    assert told(pairs) == [
        ([f"{multi}/0.png"], f"{multi}/1.png", "one"), ([f"{real}/0.png"], f"{real}/1.png", "two")
    ]  # fmt: skip
    assert not problems and {row.licence for row in pairs} == {"CC-BY-NC-4.0"}


def test_a_table_of_plain_names_keeps_its_references(tmp_path: Path) -> None:
    row = {"source_image": "0.png", "target_image": "1.png", "instruction": "go"}
    row |= {"reference_image": "2.png", "edit_type": "add"}
    (pair,), _ = found(put(tmp_path, {f"{n}.png": n for n in range(3)} | {"t.jsonl": lines([row])}))
    assert told([pair]) == [(["0.png", "2.png"], "1.png", "go")]
    assert (pair.kind, pair.licence) == ("add", UNKNOWN)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("table", "folder", "licence"),
    [
        ("editing.json", "editing/", "Apache-2.0"),
        ("text_and_image_to_image.json", "", UNKNOWN),
    ],
)
def test_pictures_of_gpt_4o(
    tmp_path: Path, table: str, folder: str, licence: str, packed: bool
) -> None:
    row = {
        "input_prompt": "Make it red",
        "input_image": ["image/v2v_0.png", "image/v2v_1.png"],
        "output_image": "image/out_0.png",
    }
    gone = {**row, "output_image": "image/out_9.png"}
    pictures = {"image/v2v_0.png": 0, "image/v2v_1.png": 1, "image/out_0.png": 2}
    if packed:
        # as published: not unpacked
        put(tmp_path, {"part_1.tar": tar_bytes((folder + n, v) for n, v in pictures.items())})
    else:
        put(tmp_path, {folder + name: number for name, number in pictures.items()})
    path = put(tmp_path, {table: json.dumps([row, gone])})
    planned = read(PairsSource(path=str(path)))
    (pair,) = planned.pairs
    bytes_of = {item.ref: item.read() for item in planned.items}
    shown = [bytes_of[ref] for ref in (*pair.contexts, pair.target)]
    assert shown == [png(0), png(1), png(2)] and pair.instruction == "Make it red"
    assert {one.reason for one in planned.skipped} == {"picture_missing"}
    assert {item.license_spdx for item in planned.items} == {licence}


def test_two_members_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    row = {"input_prompt": "go", "input_image": ["0.png"], "output_image": "1.png"}
    tars = {f"{part}.tar": tar_bytes([("a/0.png", 0), ("a/1.png", 1)]) for part in "xy"}
    pairs, problems = found(put(tmp_path, {"editing.json": json.dumps([row]), **tars}))
    unread = {"x.tar": "not_used", "y.tar": "not_used"}
    assert not pairs and problems == {"editing.json:1": "same_name", **unread}


def test_members_of_a_tar_that_no_row_names_are_said(tmp_path: Path) -> None:
    row = {"input_prompt": "go", "input_image": ["0.png"], "output_image": "1.png"}
    tar = tar_bytes([(f"a/{n}.png", n) for n in range(3)])
    pairs, problems = found(put(tmp_path, {"editing.json": json.dumps([row]), "x.tar": tar}))
    assert len(pairs) == 1 and problems == {"x.tar:a/2.png": "not_used"}


def test_a_tar_beside_a_table_is_part_of_its_identity(tmp_path: Path) -> None:
    from kontext.data.sources.pairs import local_files

    row = {"input_prompt": "go", "input_image": ["0.png"], "output_image": "1.png"}
    tar = tar_bytes([("0.png", 0), ("1.png", 1)])
    path = put(tmp_path, {"editing.json": json.dumps([row]), "a.tar": tar}) / "editing.json"
    assert [name for name, _ in local_files(PairsSource(path=str(path)))] == [
        "editing.json", "a.tar"
    ]  # fmt: skip


def test_humanedit_writes_in_capitals(tmp_path: Path) -> None:
    row = {
        "IMAGE_ID": "7", "EDITING_TYPE": "Remove", "CORE": "HumanEdit-core", "MASK": "yes",
        "EDITING_INSTRUCTION": "Remove the cup", "OUTPUT_DESCRIPTION": "a table",
        "INPUT_IMG": picture(1), "MASK_IMG": picture(3), "OUTPUT_IMG": picture(2),
    }  # fmt: skip
    path = parquet(tmp_path / "t.parquet", [row], ["INPUT_IMG", "MASK_IMG", "OUTPUT_IMG"])
    (pair,), problems = found(path)
    assert (pair.instruction, pair.kind, pair.target_caption, pair.licence) == (
        "Remove the cup", "Remove", "a table", "CC-BY-4.0"
    )  # fmt: skip
    parts = [one.part for one in (*pair.contexts, pair.target)]
    assert [part.read(1 << 20) for part in parts if part] == [png(1), png(2)] and not problems


def test_unicedit_has_its_prompt_in_english(tmp_path: Path) -> None:
    row = {"key": "k", "edit_subtask": "color", "prompt_en": "red", "prompt_cn": "-"}
    cells = [{**row, "source_image": picture(1), "edited_image": picture(2)}]
    path = parquet(tmp_path / "t.parquet", cells, ["source_image", "edited_image"])
    (pair,), _ = found(path)
    assert (pair.instruction, pair.kind, pair.licence) == ("red", "color", UNKNOWN)


def test_subjects200k_is_cut_into_its_tiles_both_ways(tmp_path: Path) -> None:
    tiles = [np.full((512, 512, 3), value, np.uint8) for value in (40, 200)]
    whole = np.zeros((528, 1056, 3), np.uint8)
    whole[8:520, 8:520], whole[8:520, 536:1048] = tiles
    sink = io.BytesIO()
    Image.fromarray(whole).save(sink, "PNG")
    cell = {"bytes": sink.getvalue(), "path": "x.png"}
    best = dict.fromkeys(("compositeStructure", "objectConsistency", "imageQuality"), 5)
    said = {
        "item": "Red Chair", "category": "furniture", "description_valid": True,
        "description_0": "It is by a window.", "description_1": "It is on a beach.",
    }  # fmt: skip
    rows = [
        {"image": cell, "collection": "c", "quality_assessment": best, "description": said},
        {"image": cell, "collection": "c", "quality_assessment": {**best, "imageQuality": 3},
         "description": said},
        {"image": cell, "collection": "c", "quality_assessment": best,
         "description": {**said, "description_valid": False}},
    ]  # fmt: skip
    path = parquet(tmp_path / "data" / "train-0.parquet", rows, ["image"])
    for place in (path, tmp_path):
        pairs, problems = found(place, "subjects200k")
        assert [row.instruction for row in pairs] == [
            "Show the same Red Chair elsewhere: It is on a beach.",
            "Show the same Red Chair elsewhere: It is by a window.",
        ]
        assert set(problems.values()) == {"set_refuses"} and len(problems) == 2
    part = pairs[0].contexts[0].part
    after = pairs[0].target.part
    assert part is not None and after is not None and pairs[0].chain == pairs[1].chain
    for one, tile in zip((part, after), tiles, strict=True):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(one.read(1 << 24)))), tile)
