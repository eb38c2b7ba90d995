"""Tables of addresses: found out, and only where the pictures are not here."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kontext.data.layouts import layout_of, rows_of
from kontext.data.layouts.base import Problem, Row
from kontext.data.layouts.web_picture import WebPicture
from kontext.data.sources.found import findings, source_at
from kontext.errors import SourceError
from tests.data.layouts.files import lines, put

A, B = "https://a.example/1.jpg", "HTTP://B.example/2?x=1"


def told(path: Path) -> tuple[list[tuple[list[str], str, str]], list[str]]:
    found = list(rows_of(path, layout_of(path)))
    rows = [one for one in found if isinstance(one, Row)]
    pictures = [one for row in rows for one in (*row.contexts, row.target)]
    assert all(one.part == WebPicture(one.ref) for one in pictures)
    pairs = [([one.ref for one in row.contexts], row.target.ref, row.instruction) for row in rows]
    return pairs, [one.reason for one in found if isinstance(one, Problem)]


@pytest.mark.parametrize("names", [("URL", "TEXT"), ("url", "caption"), ("image_url", "prompt")])
@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_captioned_addresses(tmp_path: Path, names: tuple[str, str], kind: str) -> None:
    rows = [(A, "a cat"), (B, "a dog"), ("ftp://x/y.png", "c"), (None, "d"), (A, "")]
    table = [dict(zip((*names, "similarity"), (*row, 0.3), strict=True)) for row in rows]
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
    elif kind == "csv":
        text = [",".join(str(value or "") for value in row.values()) for row in table]
        path.write_text("\n".join([",".join(table[0]), *text]))
    else:
        path.write_text(lines(table))
    assert layout_of(path) == "url-list"
    pairs, problems = told(path)
    assert pairs == [([], A, "a cat"), ([], B, "a dog")]
    assert sorted(problems) == ["instruction_missing", "picture_missing", "picture_not_local"]


def test_pairs_of_addresses_are_told_by_digests_of_them(tmp_path: Path) -> None:
    rows = [
        {"before_url": A, "after_url": B, "instruction": "Turn it’s\ton"},
        {"before_url": A, "after_url": A + "3", "instruction": "off"},
    ]
    put(tmp_path, {"pairs.jsonl": lines(rows), "readme.txt": "hello"})
    assert layout_of(tmp_path) == "url-list"
    pairs, problems = told(tmp_path)
    assert pairs == [([A], B, "Turn it’s\ton"), ([A], A + "3", "off")]
    assert problems == ["not_used"]  # readme.txt
    found = list(rows_of(tmp_path, "url-list"))
    chains = {row.chain for row in found if isinstance(row, Row)}
    assert len(chains) == 1 and "example" not in chains.pop()


def test_addresses_among_files_are_part_of_any_table(tmp_path: Path) -> None:
    rows = [{"input_image": A, "edited_image": "b.png", "instruction": "go"}]
    put(tmp_path, {"pairs.jsonl": lines(rows), "b.png": 1})
    assert layout_of(tmp_path) == "tables"
    (row,) = rows_of(tmp_path, "tables")
    assert isinstance(row, Row) and row.contexts[0].part == WebPicture(A)
    assert row.target.path == tmp_path / "b.png"


def test_a_table_that_says_where_pictures_are_from_is_no_list(tmp_path: Path) -> None:
    rows = [{"file_name": "a.png", "text": "a", "source_url": A, "url": A}]
    put(tmp_path / "one", {"a.png": 1, "metadata.jsonl": lines(rows)})
    assert layout_of(tmp_path / "one") == "tables"
    (row,) = rows_of(tmp_path / "one", "tables")
    assert isinstance(row, Row) and row.target.part is None and not row.contexts
    put(tmp_path / "two", {"a.png": 1, "a.txt": "a", "index.csv": f"url,caption\n{A},a\n"})
    assert layout_of(tmp_path / "two") == "captions"
    put(tmp_path / "three", {"0.csv": f"url,score\n{A},1\n"})
    assert layout_of(tmp_path / "three") == ""


def test_inspect_says_how_much_is_fetched(tmp_path: Path) -> None:
    text = "".join(f"https://{host}.example/{n},x\n" for n, host in enumerate("aabAc"))
    path = put(tmp_path, {"l.csv": "url,caption\n" + text}) / "l.csv"
    found = findings(source_at(str(path)))
    assert (found.layout, found.addresses, found.hosts, found.captions) == ("url-list", 5, 3, 5)


def test_the_bytes_are_not_here(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="stage ingest fetches it"):
        WebPicture(A).read(1)


ODD = {
    "half a character in its address": '{"url": "https://a.example/\\ud800", "caption": "a"}',
    "half a character in its words": '{"url": "https://a.example/1", "caption": "\\udc80"}',
    "deep": "[" * 100_000,
    "long number": '{"url": "https://a.example/1", "caption": "a", "n": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("line", ODD.values(), ids=ODD)
def test_a_line_that_cannot_be_kept_is_a_problem(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(lines([{"url": A, "caption": "a cat"}]) + line + "\n")
    assert told(path) == ([([], A, "a cat")], ["row_malformed"])
    whole = tmp_path / "list.json"
    whole.write_text(f"[{line}]")
    assert [one.reason for one in rows_of(whole, "url-list")] == ["not_used"]


def test_cells_behind_the_last_column_are_a_problem(tmp_path: Path) -> None:
    """A comma without quotes cut a text; empty cells, as spreadsheets add them, did not."""
    path = tmp_path / "list.csv"
    path.write_text(f"url,caption\n{A},a cat,,\n{A},a cat, asleep\n{B}\n")
    assert told(path) == ([([], A, "a cat")], ["row_malformed", "instruction_missing"])


def test_text_of_a_table_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    for rows in (1, 5000):  # one is seen at the first look
        words = pa.array([b"a cat"] * rows + [b"\xff\xfe"], pa.binary()).view(pa.string())
        pq.write_table(pa.table({"url": [A] * (rows + 1), "caption": words}), path)
        if rows == 1:
            assert [one.reason for one in rows_of(path, "url-list")] == ["not_used"]
            continue
        with pytest.raises(SourceError):
            list(rows_of(path, "url-list"))
