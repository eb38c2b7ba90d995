"""Tars of samples: read by offset, found out, and hostile ones have reasons."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kontext.data.layouts import layout_of, rows_of
from kontext.data.layouts.base import LARGEST, Problem, Row
from kontext.data.layouts.tar_files import entries
from kontext.data.sources import read
from kontext.data.sources.base import Planned
from kontext.data.sources.pairs import PairsSource
from kontext.errors import SourceError
from tests.data.layouts.files import png, put

Member = tuple[str, bytes | str | int] | tarfile.TarInfo


def tar_bytes(members: Iterable[Member], kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar; a number is the picture of that number, a TarInfo a member without bytes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            data = png(content) if isinstance(content, int) else content
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def read_tar(tmp_path: Path, data: bytes) -> tuple[list[Row], dict[str, str]]:
    path = tmp_path / "t.tar"
    path.write_bytes(data)
    found = list(rows_of(path, layout_of(path)))
    problems = {one.at: one.reason for one in found if isinstance(one, Problem)}
    return [one for one in found if isinstance(one, Row)], problems


def told(row: Row) -> tuple[list[str], str, str]:
    return [one.ref for one in row.contexts], row.target.ref, row.instruction


def test_suffixes_say_what_is_before_and_after(tmp_path: Path) -> None:
    record = {"instruction": "from the record", "text": "a caption", "task": "style"}
    data = tar_bytes([
        ("a/1.ctx0.png", 1), ("a/1.ctx1.png", 2), ("a/1.tgt.png", 3), ("a/1.txt", "Make it  red\n"),
        ("2.input.jpg", 4), ("2.ref.webp", 5), ("2.output.jpg", 6), ("2.json", json.dumps(record)),
        ("2.txt", "a cat"),
        ("3.1.0.jpg", 7), ("3.1.1.jpg", 8), ("3.2.jpg", 9), ("3.json", '{"instruction": "None"}'),
        ("3.instruction.txt", "X2Edit’s"),
        ("4.source_image.png", 10), ("4.png", 11), ("4.caption", "an edit"),
        ("5.1.0.jpg", 12), ("5.2.jpg", 13), ("5.txt", "['make it red', 'red, please']\n"),
        ("6.1.0.jpg", 14), ("6.2.jpg", 15), ("6.txt", "[not a list]"),
    ])  # fmt: skip
    rows, problems = read_tar(tmp_path, data)
    assert [told(row) for row in rows] == [
        (["t.tar:a/1.ctx0.png", "t.tar:a/1.ctx1.png"], "t.tar:a/1.tgt.png", "Make it  red"),
        (["t.tar:2.input.jpg", "t.tar:2.ref.webp"], "t.tar:2.output.jpg", "from the record"),
        (["t.tar:3.1.0.jpg", "t.tar:3.1.1.jpg"], "t.tar:3.2.jpg", "X2Edit’s"),
        (["t.tar:4.source_image.png"], "t.tar:4.png", "an edit"),
        (["t.tar:5.1.0.jpg"], "t.tar:5.2.jpg", "make it red"),
        (["t.tar:6.1.0.jpg"], "t.tar:6.2.jpg", "[not a list]"),
    ]
    assert not problems and [row.kind for row in rows] == ["", "style", "", "", "", ""]


def test_captioned_pictures_in_any_order_with_dots_in_names(tmp_path: Path) -> None:
    record = {"caption": "from json", "license_spdx": "MIT"}
    data = tar_bytes([
        ("v1.5 a.jpg", 1), ("b.jpg", 2), ("v1.5 a.txt", "one\r\n"), ("b.json", json.dumps(record)),
        ("b.cls", "7"), ("c.jpg", 3), ("d.txt", "no picture"), ("e.jpg", 4), ("e.png", 5),
        ("e.txt", b"\xff"), ("f.jpg", 6), ("f.json", "[1]"), ("g.mask.png", 7), ("no_suffix", "x"),
    ])  # fmt: skip
    rows, problems = read_tar(tmp_path, data)
    assert [told(row) for row in rows] == [
        ([], "t.tar:v1.5 a.jpg", "one"),
        ([], "t.tar:b.jpg", "from json"),
    ]
    assert [row.licence for row in rows] == ["", "MIT"]
    assert problems == {
        "t.tar:b.cls": "not_used",
        "t.tar:c": "instruction_missing",
        "t.tar:d": "not_used",
        "t.tar:e.png": "same_name",
        "t.tar:e": "instruction_unreadable",
        "t.tar:f": "instruction_unreadable",
        "t.tar:g.mask.png": "not_used",
        "t.tar:no_suffix": "not_used",
    }


def test_bytemorph_is_two_pictures_side_by_side(tmp_path: Path) -> None:
    before, after = png(1, 64, 64), png(2, 64, 64)
    both = Image.new("RGB", (128, 64))
    for side, half in enumerate((before, after)):
        both.paste(Image.open(io.BytesIO(half)), (64 * side, 0))
    sink = io.BytesIO()
    both.save(sink, "PNG")
    record = {"edit": "moves", "edit_rewrite": "Turn the head left", "caption": "a man"}
    path = tmp_path / "s" / "00000.tar"
    path.parent.mkdir()
    path.write_bytes(tar_bytes([("01_0.png", sink.getvalue()), ("01_0.json", json.dumps(record))]))
    found = read(PairsSource(path=str(path.parent)))
    (pair,) = found.pairs
    assert pair.instruction == "Turn the head left"
    assert pair.contexts == ("00000.tar:01_0.png#left",)
    shown = {item.ref: Image.open(io.BytesIO(item.read())).tobytes() for item in found.items}
    assert [shown[ref] for ref in (*pair.contexts, pair.target)] == [
        Image.open(io.BytesIO(half)).convert("RGB").tobytes() for half in (before, after)
    ]
    assert len({item.group_key for item in found.items}) == 1


def test_an_edit_with_one_picture_is_no_caption(tmp_path: Path) -> None:
    edit = json.dumps({"edit": "make it red", "caption": "a cat"})
    ours = json.dumps({"instruction": "a cat", "context_ids": []})
    data = tar_bytes([
        ("a.jpg", 1), ("a.json", edit), ("b.jpg", 2), ("b.instruction.txt", "red"),
        ("c.edited.jpg", 3), ("c.txt", "red"), ("d.2.jpg", 4), ("d.txt", "red"),
        ("e.tgt.png", 5), ("e.json", ours), ("f.jpg", 6), ("f.txt", "a dog"),
    ])  # fmt: skip
    rows, problems = read_tar(tmp_path, data)
    assert [told(row) for row in rows] == [
        ([], "t.tar:e.tgt.png", "a cat"), ([], "t.tar:f.jpg", "a dog")
    ]  # fmt: skip
    assert problems == {f"t.tar:{key}": "context_missing" for key in "abcd"}


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_bytes_are_read_where_they_lie(tmp_path: Path, kind: int) -> None:
    name = "deep/" * 12 + "ä" * 30  # too long for a plain header
    members = [(f"{name}.jpg", 1), (f"{name}.txt", "a"), ("./b.jpg", 2), ("b.txt", "b")]
    folder = put(tmp_path / "s", {"one/a.tar": tar_bytes(members, kind), "two/a.tar": b""})
    (folder / "two" / "a.tar").write_bytes(tar_bytes([("b.jpg", 3), ("b.txt", "c")], kind))
    found = read(PairsSource(path=str(folder)))
    assert [item.read() for item in found.items] == [png(1), png(2), png(3)]
    assert [pair.row for pair in found.pairs] == [
        f"one/a.tar:{name}", "one/a.tar:b", "two/a.tar:b"
    ]  # fmt: skip
    assert not found.skipped and all(item.stamp is None for item in found.items)


def test_tars_put_behind_each_other_reuse_names(tmp_path: Path) -> None:
    parts = [[("1.jpg", n), ("1.txt", f"{n}"), ("1.jpg", n + 10)] for n in range(3)]
    rows, problems = read_tar(tmp_path, b"".join(tar_bytes(part) for part in parts))
    assert [told(row) for row in rows] == [
        ([], "t.tar:1.jpg", "0"), ([], "t.tar@1:1.jpg", "1"), ([], "t.tar@2:1.jpg", "2")
    ]  # fmt: skip
    assert [row.target.part.read(LARGEST) for row in rows if row.target.part] == [
        png(0), png(1), png(2)
    ]  # fmt: skip
    assert list(problems.values()) == ["same_name"] * 3


def test_hostile_members_have_reasons(tmp_path: Path) -> None:
    data = tar_bytes([
        member("l.jpg", tarfile.SYMTYPE, "/etc/passwd"), member("h.jpg", tarfile.LNKTYPE, "a.jpg"),
        member("f.jpg", tarfile.FIFOTYPE), member("d.jpg", tarfile.CHRTYPE),
        member("folder.jpg", tarfile.DIRTYPE),
        ("/etc/a.jpg", 1), ("../b.jpg", 2), ("x/../../c.jpg", 3), ("._a.jpg", 4),
        ("__MACOSX/a.jpg", 5), ("a.jpg", 6), ("a.txt", "good"),
    ])  # fmt: skip
    rows, problems = read_tar(tmp_path, data)
    assert [row.instruction for row in rows] == ["good"]
    assert problems == {
        "t.tar:l.jpg": "link", "t.tar:h.jpg": "link",
        "t.tar:f.jpg": "not_regular", "t.tar:d.jpg": "not_regular",
        "t.tar:/etc/a.jpg": "name_outside", "t.tar:../b.jpg": "name_outside",
        "t.tar:x/../../c.jpg": "name_outside", "t.tar:._a.jpg": "hidden",
        "t.tar:__MACOSX/a.jpg": "junk",
    }  # fmt: skip


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    """A header that says what it likes."""
    info = tarfile.TarInfo("x")
    info.size, info.type = size, kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[:100] = name.ljust(100, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (header(b"z.jpg", 1 << 45), "truncated"),
        (header(b"z.jpg", 1 << 62), "truncated"),
        (header(b"x", 1 << 45, b"x") + b"9 path=a\n", "tar_broken"),
        (header(b"x", 64, b"L") + b"z.jpg", "tar_broken"),
        (header(b"\xff.jpg", 0), "undecodable_name"),
        (header(b"z.jpg", 4096, b"S") + bytes(4096), "not_regular"),
        (header(b"p", 22, b"x") + b"22 GNU.sparse.major=1\n".ljust(512, b"\0")
         + header(b"z.jpg", 5) + bytes(512), "not_regular"),
        (header(b"p", 14, b"x") + b"14 size=-5000\n".ljust(512, b"\0") + header(b"z", 5),
         "tar_broken"),
        (b"no header at all".ljust(512, b"!"), "tar_broken"),
        (b"cut", "truncated"),
    ],
)  # fmt: skip
def test_what_a_header_claims_is_not_believed(tmp_path: Path, data: bytes, reason: str) -> None:
    members = [("a.jpg", 1), ("a.txt", "a")]
    good = tar_bytes(members).rstrip(b"\0")
    good += bytes(-len(good) % 512)  # without what ends an archive
    rows, problems = read_tar(tmp_path, good + data)
    assert [row.instruction for row in rows] == ["a"]
    assert list(problems.values()) == [reason]


def test_a_member_of_more_than_a_picture_may_have_is_said_early(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    with path.open("wb") as file:
        file.write(header(b"big.jpg", LARGEST + 1))
        file.seek(LARGEST + 1024, 1)  # a hole: nothing is on the disk
        file.write(tar_bytes([("a.jpg", 1), ("a.txt", "a")]))
    problems = [one for one in rows_of(path, "webdataset") if isinstance(one, Problem)]
    assert [one.reason for one in problems] == ["too_many_bytes"]


def test_compressed_tars_and_what_is_no_tar_are_clear_errors(tmp_path: Path) -> None:
    put(tmp_path, {"a/x.tar.gz": b"\x1f\x8b", "b/x.tar": b"nothing".ljust(512)})
    with pytest.raises(SourceError, match=r"1 tar_compressed \(x.tar.gz: decompress it first"):
        read(PairsSource(path=str(tmp_path / "a")))
    with pytest.raises(SourceError, match="1 tar_broken"):
        read(PairsSource(path=str(tmp_path / "b")))


def test_a_cut_file_is_an_error_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(tar_bytes([("a.txt", "a"), ("a.jpg", 1)]))
    found: Planned = read(PairsSource(path=str(path)))
    path.write_bytes(path.read_bytes()[:1600])
    with pytest.raises(SourceError, match="the file ends before"):
        found.items[0].read()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=12)), max_size=6))
def test_damage_anywhere_never_raises(tmp_path: Path, damage: list[tuple[int, bytes]]) -> None:
    members = [("ä" * 60 + "/a.png", 1), ("a.txt", "a"), ("b.png", 2), ("b.json", "{}")]
    data = bytearray(tar_bytes(members, tarfile.PAX_FORMAT)[:5120])
    for at, what in damage:
        data[at : at + len(what)] = what
    path = tmp_path / "t.tar"
    path.write_bytes(data)
    for entry in entries(path):
        assert entry.reason or entry.member.offset + entry.member.size <= len(data)
    list(rows_of(path, "webdataset"))


@pytest.mark.parametrize("record", [b'{"caption": "\\ud800"}', b'{"caption": "\xed\xa0\x80"}'])
def test_a_record_with_half_a_character_is_a_problem(tmp_path: Path, record: bytes) -> None:
    """It could be stored nowhere."""
    data = tar_bytes([("0.png", 1), ("0.json", record), ("1.png", 2), ("1.txt", "a cat")])
    rows, problems = read_tar(tmp_path, data)
    assert [row.instruction for row in rows] == ["a cat"]
    assert list(problems.values()) == ["instruction_unreadable"]
