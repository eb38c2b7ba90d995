"""Every entry below a path has exactly one outcome, in every layout."""

import io
import os
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kontext.data.layouts import layout_of, layouts, outcomes_of
from kontext.data.layouts.base import Opened, Problem, Row, shown, walk
from kontext.data.sources import read
from kontext.data.sources.found import findings, source_at
from tests.data.layouts.files import lines, png, put


def tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for name, data in (("a.ctx0.png", png(1)), ("a.tgt.png", png(2)), ("a.txt", b"go")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def subjects() -> bytes:
    said = {"item": "cup", "description_valid": True, "description_0": "a", "description_1": "b"}
    best = dict.fromkeys(("compositeStructure", "objectConsistency", "imageQuality"), 5)
    row = {"image": {"bytes": png(1)}, "collection": "c", "quality_assessment": best}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{**row, "description": said}]), sink)
    return sink.getvalue()


Files = Mapping[str, bytes | str | int]
ROW = {"input_image": "in/a.png", "edited_image": "out/a.png", "instruction": "go"}
URLS = {"url": "https://a.example/1.png", "caption": "a cat"}
# a small set of each layout, with a folder in which more may lie, and names that a layout looks at
SETS: dict[str, tuple[Files, tuple[str, ...]]] = {
    "paired-folders": (
        {"control/a.png": 1, "target/a.png": 2, "target/a.txt": "go", "control_2/a.png": 3},
        ("", "control/", "target/", "captions/", "else/"),
    ),
    "paired-folders in splits": (
        {f"{one}/{two}/a.png": n for n, (one, two) in enumerate(
            (one, two) for one in ("train", "val") for two in ("control", "target"))}
        | {"train/target/a.txt": "go", "val/instruction.txt": "go"},
        ("", "train/", "train/control/", "val/target/", "else/"),
    ),
    "paired-files": (
        {"a_in.png": 1, "a_out.png": 2, "a.txt": "go", "x/b_in.png": 3, "x/b_out.png": 4},
        ("", "x/", "else/"),
    ),
    "captions": ({"a.png": 1, "a.txt": "a cat", "x/b.png": 2, "x/b.txt": "b"}, ("", "x/")),
    "instructpix2pix-raw": (
        {"0001/prompt.json": '{"edit": "go"}', "0001/7_0.jpg": 1, "0001/7_1.jpg": 2},
        ("", "0001/", "0002/"),
    ),
    "tables": (
        {"pairs.jsonl": lines([ROW]), "in/a.png": 1, "out/a.png": 2}, ("", "in/", "else/"),
    ),
    "subjects200k": ({"data/train-0.parquet": subjects()}, ("", "data/")),
    "webdataset": ({"train-0.tar": tar()}, ("", "else/")),
    "url-list": ({"list.jsonl": lines([URLS])}, ("", "else/")),
}  # fmt: skip
MORE = (
    "loose.png", "a.png", "a.jpg", "b_in.png", "b_out.jpg", "7_0.png", "7_1.png", "8_0.jpg",
    "a.txt", "b.txt", "loose.caption", "instruction.txt", "prompt.txt", "metadata.jsonl",
    "metadata.csv", "prompt.json", "table.parquet", "notes.md", "clip.mp4", "raw.CR2", "no_suffix",
    ".hidden.png", ".hidden/a.png", "@eaDir/a.png", "Thumbs.db", "t.tar.gz", "deep/er/a.png",
)  # fmt: skip
CONTENT = {
    "metadata.jsonl": lines([{"file_name": "a.png", "text": "go"}, {"file_name": "x", "text": "y"}])
    + "no json\n",
    "metadata.csv": "file_name,text\nb.png,go\n",
    "prompt.json": '{"edit": "other"}',
}
ODD = ("link", "link_out", "link_gone", "link_loop", "link_folder", "fifo", "undecodable")


def add(root: Path, folder: str, name: str, number: int) -> None:
    """Put one more thing where nothing of its name is."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    path = root / folder / (f"{name}{number}.png" if name in ODD else name)
    if name == "undecodable":
        path = root / folder / os.fsdecode(b"caf\xe9.png")
    if os.path.lexists(path):
        return
    there = next(one for one, reason in walk(root) if not reason)
    targets = {
        "link": there, "link_out": root.parent / "outside.png", "link_gone": root / "nothing",
        "link_loop": path, "link_folder": root,
    }  # fmt: skip
    if name in targets:
        path.symlink_to(targets[name])
    elif name == "fifo":
        os.mkfifo(path)
    elif name == "undecodable":
        path.write_bytes(png(5))
    else:
        content = CONTENT.get(name, 40 + number if name.lower()[-3:] in ("png", "jpg") else "x")
        put(root / folder, {name: content})


def outcome_of_each(root: Path, layout: str) -> dict[str, list[str]]:
    """Entry -> its outcomes: "used", "opened", or the reasons of its problems."""
    found: dict[str, list[str]] = {shown(path, root): [] for path, _ in walk(root)}
    used: set[str] = set()
    for one in outcomes_of(root, layout):
        if isinstance(one, Row):
            files = [p for p in (*one.contexts, one.target) if p.part is None]
            used |= {p.ref for p in files} | {shown(p.path, root) for p in files}
        elif isinstance(one, Opened):
            found[shown(one.path, root)].append("opened")
        elif isinstance(one, Problem) and one.at in found:  # others are rows of a table
            found[one.at].append(one.reason)
    for name in used:
        found[name].append("used")
    return found


PLACE = st.tuples(st.integers(0, 9), st.sampled_from(MORE + ODD))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("name", SETS)
@given(places=st.lists(PLACE, max_size=12))
@example(places=[(n % 10, more) for n, more in enumerate(MORE + ODD)])
@example(places=[(0, more) for more in MORE + ODD])
@settings(max_examples=40, deadline=None)
def test_planned_and_skipped_are_all_that_is_walked(
    name: str, places: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files, folders = SETS[name]
    top = tmp_path_factory.mktemp("set")
    put(top, {"outside.png": 99})
    root = put(top / "mine", files)
    for number, (folder, more) in enumerate(places):
        add(root, folders[folder % len(folders)], more, number)
    layout = name.partition(" ")[0]
    outcomes = outcome_of_each(root, layout)
    assert {entry: said for entry, said in outcomes.items() if len(said) != 1} == {}


def test_every_layout_is_tried() -> None:
    assert {name.partition(" ")[0] for name in SETS} == set(layouts())


LOST = {
    "loose.png": "not_used", "notes.md": "other_kind", "control/b.mp4": "other_kind",
    "control/raw.cr2": "other_kind", ".hidden/x.png": "hidden", "extra/a.png": "not_used",
    "left.txt": "not_used", "table.parquet": "not_used",
}  # fmt: skip


@pytest.mark.parametrize("layout", sorted(layouts()))
def test_nothing_is_dropped_without_a_word(tmp_path: Path, layout: str) -> None:
    """Each of these once vanished from one layout or another."""
    files: dict[str, bytes | str | int] = dict(SETS[layout][0])
    if layout == "paired-files":  # which most of the pictures must fit
        files |= {f"{n}_{end}.png": n for n in range(5) for end in ("in", "out")}
        files |= {f"{n}.txt": "go" for n in range(5)} | {"x/b.txt": "go"}
    elif layout == "captions":
        files |= {f"more/{n}.{kind}": n if kind == "png" else "words" for n in range(5)
                  for kind in ("png", "txt")}  # fmt: skip
    web = layout == "url-list"  # which is no list where pictures lie beside it
    lost = {n: r for n, r in LOST.items() if not (web and n.endswith(".png") and r == "not_used")}
    more: Files = {name: 50 + n if name[-3:] == "png" else "x" for n, name in enumerate(lost)}
    root = put(tmp_path / "mine", {**files, **more})
    assert layout_of(root) == layout
    planned = read(source_at(str(root)))
    reasons = {one.ref: one.reason for one in planned.skipped}
    expected = {(".hidden" if n[0] == "." else n): r for n, r in lost.items()}
    if layout == "captions":  # there every picture wants a text
        expected = {n: "instruction_missing" if n[-3:] == "png" else r for n, r in expected.items()}
    assert reasons == expected
    counts = findings(source_at(str(root))).skipped
    assert counts == Counter(expected.values())


def test_links_inside_of_the_set_are_followed(tmp_path: Path) -> None:
    root = put(tmp_path, {"store/a.png": 1, "target/a.png": 2, "target/a.txt": "go"})
    (root / "control").mkdir()
    (root / "control/a.png").symlink_to(root / "store/a.png")
    (row,) = [one for one in outcomes_of(root, "paired-folders") if isinstance(one, Row)]
    assert [one.ref for one in row.contexts] == ["control/a.png"]


def test_a_caption_that_no_picture_took_is_said(tmp_path: Path) -> None:
    table = lines([{"file_name": name, "text": "go"} for name in ("a.png", "gone.png")])
    root = put(tmp_path, {"control/a.png": 1, "target/a.png": 2, "metadata.jsonl": table})
    problems = [one for one in outcomes_of(root, "paired-folders") if isinstance(one, Problem)]
    assert [(one.at, one.reason) for one in problems] == [("metadata.jsonl:gone.png", "not_used")]
