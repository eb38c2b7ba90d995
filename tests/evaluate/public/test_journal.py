from pathlib import Path

import pytest

from kontext.errors import BenchError
from kontext.evaluate.public.journal import Journal

RUN = {"bench": "kontextbench", "seed": 0}


def row(item: str, outcome: str = "edited") -> dict[str, str]:
    return {"item": item, "outcome": outcome}


def test_a_line_that_a_kill_has_cut_off_is_taken_away(tmp_path: Path) -> None:
    with Journal.open(tmp_path, RUN) as journal:
        journal.add(row("a"))
        journal.add(row("b"))
    lines = tmp_path / "edits.jsonl"
    lines.write_bytes(lines.read_bytes() + b'{"item": "c", "outc')
    with Journal.open(tmp_path, RUN) as journal:
        assert list(journal.rows) == ["a", "b"]
        journal.add(row("c"))
    assert list(Journal.finished(tmp_path, ["a", "c"]).rows) == ["a", "b", "c"]
    with pytest.raises(BenchError, match="not done: 1 items"):
        Journal.finished(tmp_path, ["a", "d"])


def test_another_run_does_not_go_on_in_the_folder(tmp_path: Path) -> None:
    again = Journal.open(tmp_path, RUN)
    with Journal.open(tmp_path, RUN), pytest.raises(BenchError, match="another process"), again:
        pass
    other = Journal.open(tmp_path, {**RUN, "seed": 1, "editor": "x"})
    with pytest.raises(BenchError, match=r"another seed, editor\): give another --out"), other:
        pass
    (tmp_path / "run.json").unlink()
    (tmp_path / "edits.jsonl").write_text("{}\n")
    with pytest.raises(BenchError, match=r"but no run\.json"), Journal.open(tmp_path, RUN):
        pass


def test_lines_that_are_none_are_named(tmp_path: Path) -> None:
    with Journal.open(tmp_path, RUN) as journal:
        journal.add(row("a"))
    lines = tmp_path / "edits.jsonl"
    lines.write_text("prose\n" + lines.read_text())
    with pytest.raises(BenchError, match=r"edits\.jsonl:1 is no line"), Journal.open(tmp_path, RUN):
        pass


def test_items_with_like_names_have_pictures_of_their_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    names = {journal.picture(item).name for item in ("a/b", "a b", "../a", "a" * 300, "ä")}
    assert len(names) == 5 and all(len(name) < 100 for name in names)
    assert all(journal.picture(item).parent == tmp_path / "edits" for item in ("../a", "/etc/x"))


def test_failed_items_are_done_again(tmp_path: Path) -> None:
    with Journal.open(tmp_path, RUN) as journal:
        journal.add(row("a", "failed"))
        journal.add(row("b"))
        assert journal.forget(("failed",)) == 1 and list(journal.rows) == ["b"]
        journal.add(row("a"))
    with Journal.open(tmp_path, RUN) as journal:
        assert journal.rows["a"]["outcome"] == "edited"
