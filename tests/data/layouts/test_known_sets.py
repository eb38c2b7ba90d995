"""Published sets in exactly the layout they are published in, with what is odd in them."""

from pathlib import Path

import pytest

from kontext.data.layouts import layout_of, rows_of
from kontext.data.layouts.base import Problem, Row
from kontext.data.layouts.known_sets import KNOWN, UNKNOWN
from kontext.data.layouts.web_picture import WebPicture
from kontext.data.sources.pairs import PairsSource, read
from kontext.errors import SourceError
from tests.data.layouts.files import lines, parquet, picture, put

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


OWN_TABLES = [
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


ULTRAEDIT = {
    **dict.fromkeys(("clip_sim_source", "clip_sim_target", "clip_sim_dir", "dinov2_sim"), 0.5),
    "source_caption": "a", "target_caption": "b", "edit_prompt": "red",
    "source_image": 1, "edited_image": 2, "mask_image": None,
}  # fmt: skip
SCALEEDIT = {"id": "1", "edit_task": "style_transfer", "edit_instruction": "red"}
SCALEEDIT |= {"source_image": 1, "edited_image": 2}  # type: ignore[dict-item]


def test_what_a_set_alone_has_is_its_licence_table_by_table(tmp_path: Path) -> None:
    sets: dict[str, tuple[dict[str, object], str]] = {
        "ultraedit/FreeForm_0.parquet": (ULTRAEDIT, "CC-BY-4.0"),
        "1.1_style_transfer/style_transfer_0000.parquet": (dict(SCALEEDIT), "MIT"),
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
