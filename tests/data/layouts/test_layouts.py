"""Every layout: found out, read whole, and nothing lost without a reason."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kontext.data.layouts import drawings, layout_of, layouts, rows_of
from kontext.data.layouts.base import Problem, Row, walk
from kontext.errors import SourceError
from tests.data.layouts.files import lines, parquet, picture, png, put


def read(path: Path, layout: str) -> tuple[list[Row], dict[str, str]]:
    """Rows, and the reason of everything that is none."""
    assert layout_of(path) == layout
    found = list(rows_of(path, layout))
    rows = [one for one in found if isinstance(one, Row)]
    return rows, {one.at: one.reason for one in found if isinstance(one, Problem)}


def pair(row: Row) -> tuple[list[str], str, str]:
    return [one.ref for one in row.contexts], row.target.ref, row.instruction


def test_folders_of_one_name_with_references_and_texts_in_all_places(tmp_path: Path) -> None:
    files = {f"{folder}/{name}": n for n, (folder, name) in enumerate(
        (folder, name)
        for folder in ("control", "target", "control_2")
        for name in ("a.png", "b.jpg", "deep/c.png", "d.png")
        if (folder, name) != ("control_2", "b.jpg")
    )}  # fmt: skip
    texts = {
        "target/a.txt": "Make it  red!\n",
        "control/b.txt": "give “B” a hat",
        "captions/deep/c.txt": "c, please\r\n",
        "metadata.jsonl": lines([{"file_name": "target/d.png", "text": "from the table"}]),
    }
    rows, problems = read(put(tmp_path, files | texts), "paired-folders")
    assert [pair(row) for row in rows] == [
        (["control/a.png", "control_2/a.png"], "target/a.png", "Make it  red!"),
        (["control/b.jpg"], "target/b.jpg", "give “B” a hat"),
        (["control/d.png", "control_2/d.png"], "target/d.png", "from the table"),
        (["control/deep/c.png", "control_2/deep/c.png"], "target/deep/c.png", "c, please"),
    ]
    assert not problems and len({row.chain for row in rows}) == 4


def test_what_has_no_partner_or_text_is_said(tmp_path: Path) -> None:
    files = {
        "before/a.png": 1, "after/a.png": 2, "after/a.txt": "",
        "before/b.png": 3, "before/c.png": 4, "after/c.jpg": 5, "after/d.png": 6,
        "instruction/x.md": "not read", "captions/c.txt": "c", "captions/e.txt": "e",
        "before/f.png": 7, "after/f.png": 8, "captions/f.txt": b"\xff\xfe\xfa",
    }  # fmt: skip
    rows, problems = read(put(tmp_path, files), "paired-folders")
    assert [row.at for row in rows] == ["after/c.jpg"]
    assert problems == {
        "after/a.png": "instruction_missing",
        "after/d.png": "context_missing",
        "after/f.png": "instruction_unreadable",
        "before/a.png": "pair_left_out",
        "before/b.png": "not_used",
        "before/f.png": "pair_left_out",
        "captions/e.txt": "not_used",
        "instruction/x.md": "other_kind",
    }


def test_folders_of_splits_are_looked_into(tmp_path: Path) -> None:
    files = {f"{split}/{folder}/a.png": n for n, (split, folder) in enumerate(
        (split, folder) for split in ("train", "val") for folder in ("control", "target")
    )}  # fmt: skip
    texts = {"train/target/a.txt": "one", "val/a.txt": "two", "val/b.txt": "three"}
    rows, problems = read(put(tmp_path, files | texts), "paired-folders")
    assert [pair(row) for row in rows] == [
        (["train/control/a.png"], "train/target/a.png", "one"),
        (["val/control/a.png"], "val/target/a.png", "two"),
    ]
    assert problems == {"val/b.txt": "not_used"}


def test_two_files_of_one_name_are_not_taken_for_one(tmp_path: Path) -> None:
    files = {"control/a.jpg": 1, "control/a.png": 2, "target/a.png": 3, "target/a.txt": "go"}
    rows, problems = read(put(tmp_path / "folders", files), "paired-folders")
    assert [pair(row)[0] for row in rows] == [["control/a.jpg"]]
    assert problems == {"control/a.png": "same_name"}
    files = {"a_in.jpg": 1, "a_in.png": 2, "a_out.png": 3, "a.txt": "go"}
    rows, problems = read(put(tmp_path / "names", files), "paired-files")
    assert [pair(row)[0] for row in rows] == [["a_in.jpg"]]
    assert problems == {"a_in.png": "same_name"}


def test_one_text_for_all(tmp_path: Path) -> None:
    files = {"input/a.png": 1, "output/a.png": 2, "input/b.png": 3, "output/b.png": 4}
    rows, problems = read(put(tmp_path, files | {"instruction.txt": "sharpen"}), "paired-folders")
    assert [row.instruction for row in rows] == ["sharpen", "sharpen"] and not problems


@pytest.mark.parametrize(("before", "after"), [("in", "out"), ("Before", "After"), ("src", "tgt")])
def test_ends_of_names(tmp_path: Path, before: str, after: str) -> None:
    files = {
        f"cat_{before}.png": 1, f"cat_{after}.png": 2, "cat.txt": "no cat",
        f"x/dog-{before}.png": 3, f"x/dog-{after}.jpg": 4, f"x/dog-{after}.txt": "no dog",
        "x/dog-ref2.png": 5, "x/dog-ref.png": 6, f"owl_{after}.png": 7, "owl.txt": "no owl",
    }  # fmt: skip
    rows, problems = read(put(tmp_path, files), "paired-files")
    assert [pair(row) for row in rows] == [
        ([f"cat_{before}.png"], f"cat_{after}.png", "no cat"),
        (
            [f"x/dog-{before}.png", "x/dog-ref.png", "x/dog-ref2.png"],
            f"x/dog-{after}.jpg",
            "no dog",
        ),
    ]
    assert problems == {f"owl_{after}.png": "not_used", "owl.txt": "not_used"}


def test_captions_are_rows_without_context(tmp_path: Path) -> None:
    files = {"a.png": 1, "a.txt": "a red cat", "b/c.jpg": 2, "b/c.txt": "a dog", "d.png": 3}
    rows, problems = read(put(tmp_path, files), "captions")
    assert [pair(row) for row in rows] == [([], "a.png", "a red cat"), ([], "b/c.jpg", "a dog")]
    assert problems == {"d.png": "instruction_missing"}


def test_instructpix2pix_as_generated(tmp_path: Path) -> None:
    files = {
        "0001/prompt.json": '{"caption": "a", "edit": "make it gold", "output": "a gold a"}',
        "0001/77_0.jpg": 1, "0001/77_1.jpg": 2, "0001/9_0.jpg": 3, "0001/9_1.jpg": 4,
        "0001/metadata.jsonl": '{"seed": 77}\n',
        "0002/prompt.json": '{"input": "b"}', "0002/1_0.jpg": 5, "0002/1_1.jpg": 6,
        "0003/prompt.json": '{"edit": "x"}', "0003/5_0.jpg": 7, "0003/odd.jpg": 8,
    }  # fmt: skip
    rows, problems = read(put(tmp_path, files), "instructpix2pix-raw")
    assert [pair(row) for row in rows] == [
        (["0001/77_0.jpg"], "0001/77_1.jpg", "make it gold"),
        (["0001/9_0.jpg"], "0001/9_1.jpg", "make it gold"),
    ]
    assert {row.target_caption for row in rows} == {"a gold a"}
    assert len({row.chain for row in rows}) == 1
    assert problems == {
        "0001/metadata.jsonl": "other_kind",
        "0002/1_0.jpg": "pair_left_out",
        "0002/1_1.jpg": "instruction_missing",
        "0003/5_0.jpg": "not_used",
        "0003/odd.jpg": "not_used",
    }


def test_a_table_of_files(tmp_path: Path) -> None:
    rows = [
        {"input_image": "in/1.png", "edited_image": "1.png", "instruction": "one\ttab, “quotes”"},
        {"input_image": "in/2.png", "edited_image": "gone.png", "instruction": "two"},
        {"input_image": "../../etc/passwd", "edited_image": "1.png", "instruction": "three"},
        {"input_image": "s3://x/1.png", "edited_image": "1.png", "instruction": "four"},
        {"input_image": "in/1.png", "edited_image": "1.png", "instruction": None},
        {"input_image": "in/1.png", "edited_image": "a\0b.png", "instruction": "six"},
    ]
    text = lines(rows[:2]) + "not json\n[1]\n\n" + lines(rows[2:])
    root = put(tmp_path, {"pairs.jsonl": text, "in/1.png": 1, "1.png": 2, "in/2.png": 3})
    for path in (root, root / "pairs.jsonl"):
        found, problems = read(path, "tables")
        assert [pair(row) for row in found] == [(["in/1.png"], "1.png", "one\ttab, “quotes”")]
        reasons = sorted(r for r in problems.values() if r != "not_used")
        assert reasons == [
            "instruction_missing",
            "picture_missing",
            "picture_missing",
            "picture_not_local",
            "picture_outside",
            "row_malformed",
            "row_malformed",
        ]
        unnamed = [at for at, reason in problems.items() if reason == "not_used"]
        assert unnamed == (["in/2.png"] if path == root else [])  # its row names what is not there


def test_an_instruction_may_end_in_a_files_name(tmp_path: Path) -> None:
    rows = [
        {"input_image": "1.png", "edited_image": "2.png", "instruction": text}
        for text in ("make it like 2.png", "brighter", "smaller")
    ]
    found, _ = read(put(tmp_path, {"p.jsonl": lines(rows), "1.png": 1, "2.png": 2}), "tables")
    assert [row.instruction for row in found] == ["make it like 2.png", "brighter", "smaller"]


def test_csv_and_json(tmp_path: Path) -> None:
    files = {"a.png": 1, "b.png": 2}
    comma = 'before,after,prompt\na.png,b.png,"make it, well, blue"\n'
    put(tmp_path / "csv", {"t.csv": comma, **files})
    semicolon = 'before;after;prompt\n.\\a.png;b.png;"make it, well; blue"\n'
    put(tmp_path / "excel", {"t.csv": semicolon, **files})
    put(
        tmp_path / "json",
        {"t.json": '[{"source": "a.png", "target": "b.png", "text": "x"}]', **files},
    )
    assert pair(read(tmp_path / "csv", "tables")[0][0])[2] == "make it, well, blue"
    excel = pair(read(tmp_path / "excel", "tables")[0][0])
    assert excel == (["a.png"], "b.png", "make it, well; blue")
    assert pair(read(tmp_path / "json", "tables")[0][0])[:2] == (["a.png"], "b.png")


SETS = {
    "InstructPix2Pix": (
        {"original_prompt": "p", "original_image": 1, "edit_prompt": "go", "edited_prompt": "q"}
        | {"edited_image": 2},
        [([1], 2, "go", "q")],
    ),
    "MagicBrush": (
        {"img_id": "7", "turn_index": 1, "source_img": 1, "mask_img": 3, "instruction": "go"}
        | {"target_img": 2},
        [([1], 2, "go", "")],
    ),
    "HQ-Edit": (
        {"input": "a", "input_image": 1, "edit": "go", "inverse_edit": "back", "output": "b"}
        | {"output_image": 2},
        [([1], 2, "go", "b"), ([2], 1, "back", "a")],
    ),
    "UltraEdit": (
        {"source_caption": "a", "target_caption": "b", "edit_prompt": "go", "source_image": 1}
        | {"edited_image": 2, "mask_image": None},
        [([1], 2, "go", "b")],
    ),
    "OmniEdit": (
        {"omni_edit_id": "task_1", "task": "swap", "src_img": 1, "edited_img": 2}
        | {"edited_prompt_list": ["rough", "go"]},
        [([1], 2, "go", "")],
    ),
    "AnyEdit": (
        {"edit_instruction": "go", "image_file": 1, "edited_file": 2, "visual_input": None}
        | {"edit_type": "add", "input": "a", "output": "b"},
        [([1], 2, "go", "b")],
    ),
    "AnyEdit with a second picture": (
        {"edit_instruction": "go", "image_file": 1, "edited_file": 2, "visual_input": 3}
        | {"edit_type": "visual_reference", "input": "a", "output": "b"},
        [([1, 3], 2, "go", "b")],
    ),
    "ImgEdit": (
        {"input_images": [1, 3], "output_images": [2], "prompt": "go"},
        [([1, 3], 2, "go", "")],
    ),
    "NHR-Edit": (
        {"source_image": 1, "edit_instruction": "go", "edited_image": 2},
        [([1], 2, "go", "")],
    ),
}


@pytest.mark.parametrize("name", sorted(SETS))
def test_published_sets_with_pictures_inside(tmp_path: Path, name: str) -> None:
    row, expected = SETS[name]
    cells = {
        column: [picture(one) for one in value]
        if isinstance(value, list) and isinstance(value[0], int)
        else picture(value)
        if value is None or (isinstance(value, int) and column != "turn_index")
        else value
        for column, value in row.items()
    }
    inside = [c for c, v in cells.items() if not isinstance(v, str | int) and c[-5:] != "_list"]
    path = parquet(tmp_path / "data" / "train-0000.parquet", [cells] * 9, inside)
    for place in (path, tmp_path):
        rows, problems = read(place, "tables")
        assert not problems and len(rows) == 9 * len(expected)
        for found, (contexts, target, text, caption) in zip(rows, expected * 9, strict=True):
            assert found.instruction == text and found.target_caption == caption
            parts = [one.part for one in (*found.contexts, found.target)]
            read_back = [part.read(1 << 20) for part in parts if part is not None]
            assert read_back == [png(number) for number in (*contexts, target)]
            assert len({one.ref for one in (*found.contexts, found.target)}) == len(parts)


def test_columns_are_told_by_more_than_the_first_row(tmp_path: Path) -> None:
    rows = [
        {"source": "0.png", "file_name": "1.png", "reference_file_names": [], "text": "one"},
        {"source": "0.png", "file_name": "1.png", "reference_file_names": ["2.png"], "text": "two"},
    ]
    put(tmp_path, {f"{n}.png": n for n in range(3)} | {"t.jsonl": lines(rows)})
    found, problems = read(tmp_path, "tables")
    assert [pair(row)[0] for row in found] == [["0.png"], ["0.png", "2.png"]] and not problems


def test_turns_of_a_conversation_are_pairs_of_one_chain(tmp_path: Path) -> None:
    rows = [
        {"source_image": "0.png", "edit_image_1": "1.png", "instruction_1": "one",
         "edit_image_2": "2.png", "instruction_2": "two"},
        {"source_image": "3.png", "edit_image_1": "4.png", "instruction_1": "three"},
    ]  # fmt: skip
    put(tmp_path, {f"{n}.png": n for n in range(5)} | {"split_0.jsonl": lines(rows)})
    found, problems = read(tmp_path, "tables")
    assert [pair(row) for row in found] == [
        (["0.png"], "1.png", "one"),
        (["1.png"], "2.png", "two"),
        (["3.png"], "4.png", "three"),
    ]
    assert found[0].chain == found[1].chain != found[2].chain and not problems


def test_turns_of_magicbrush_share_their_chain(tmp_path: Path) -> None:
    rows = [
        {"img_id": f"{n // 2}", "turn_index": 1 + n % 2, "source_img": picture(n)}
        | {"mask_img": None, "instruction": f"edit {n}", "target_img": picture(n + 1)}
        for n in range(4)
    ]
    parquet(tmp_path / "t.parquet", rows, ["source_img", "mask_img", "target_img"])
    found, _ = read(tmp_path, "tables")
    assert [row.chain for row in found] == ["0", "0", "1", "1"]


def test_a_column_of_plain_bytes_is_a_picture(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"source": [png(1)], "target": [png(2)], "text": ["go"]})
    pq.write_table(table, tmp_path / "t.parquet")
    (row,), problems = read(tmp_path, "tables")
    assert row.contexts[0].part is not None and row.contexts[0].part.read(9999) == png(1)
    assert not problems


def test_a_cell_that_is_too_large_or_gone_is_a_source_error(tmp_path: Path) -> None:
    rows = [{"source": picture(1), "target": picture(2), "text": "go"}]
    path = parquet(tmp_path / "t.parquet", rows, ["source", "target"])
    (row,), _ = read(path, "tables")
    part = row.target.part
    assert part is not None
    with pytest.raises(SourceError, match="limit 10"):
        part.read(10)
    rows[0]["target"] = {"bytes": None, "path": "x"}
    (row,), _ = read(parquet(tmp_path / "u.parquet", rows, ["source", "target"]), "tables")
    with pytest.raises(SourceError, match="holds no picture"):
        assert row.target.part is not None
        row.target.part.read(1 << 20)


@pytest.mark.parametrize(
    "files",
    [
        {"a.png": 1, "b.png": 2},
        {"notes.txt": "hello"},
        {"t.csv": "label,score\n1,2\n"},
        {"t.jsonl": '{"image": "a.png", "label": 3}\n'},
        {"t.parquet": b"PAR1 no parquet"},
        {"control/a.png": 1},
    ],
)
def test_what_is_no_layout_is_none(tmp_path: Path, files: dict[str, bytes | str | int]) -> None:
    assert layout_of(put(tmp_path, files)) == ""


def test_every_layout_is_drawn() -> None:
    assert all(name in drawings() for name in layouts())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_every_entry_of_a_folder_has_one_outcome(tmp_path: Path) -> None:
    root, outside = tmp_path / "pictures", tmp_path / "private.png"
    put(tmp_path, {"private.png": 1, "more/x.png": 2})
    put(root, {"a.png": 1, ".hidden.png": 2, ".git/b.png": 3, "@eaDir/a.png": 4, "sub/c.png": 5})
    put(root, {"Thumbs.db": b"x"})
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "leak.png").symlink_to(outside)
    (root / "gone.png").symlink_to(root / "nothing")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "folder").symlink_to(tmp_path / "more")
    (root / "own").symlink_to(root / "sub")
    os.mkfifo(root / "fifo.png")
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes(png(6))
    found = {os.fsencode(path.relative_to(root)): reason for path, reason in walk(root)}
    assert found == {
        b"a.png": "", b"inside.png": "", b"sub/c.png": "",
        b".hidden.png": "hidden", b".git": "hidden", b"@eaDir": "junk", b"Thumbs.db": "junk",
        b"leak.png": "link_outside", b"gone.png": "link_broken", b"loop.png": "link_loop",
        b"folder": "link_outside", b"own": "not_regular", b"fifo.png": "not_regular",
        b"caf\xe9.png": "undecodable_name",
    }  # fmt: skip


def test_what_cannot_be_read_is_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"a.png": 1, "b.png": 2})
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "b.png")  # root reads
    assert dict(walk(tmp_path)) == {tmp_path / "a.png": "", tmp_path / "b.png": "denied"}


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)


@given(NAMES, st.text(max_size=30), st.text(max_size=30))
@example("b.png", "write a.JPE", "")
@settings(max_examples=60, deadline=None)
def test_no_text_of_a_row_can_end_the_plan(
    tmp_path_factory: pytest.TempPathFactory, name: str, text: str, odd: str
) -> None:
    root = tmp_path_factory.mktemp("rows")
    first = {"input_image": "a.png", "edited_image": "b.png", "instruction": "go"}
    rows = [first, {"input_image": name, "edited_image": odd, "instruction": text}]
    put(root, {"t.jsonl": lines(rows), "a.png": 1, "b.png": 2})
    found, problems = read(root, "tables")
    assert len(found) + len(problems) == 2 and pair(found[0])[2] == "go"
