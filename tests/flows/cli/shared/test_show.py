import os
import pty
import sys

import pytest

from flows.cli.shared.show import cell, print_table, table_text

ROWS = [("finetune/0123456789abcdef", 5, "[bold] :smile: " + "long words " * 12), ("mine", 12, "")]


def test_a_pipe_gets_one_line_for_each_row_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, ("artifact", "n", "why"), right=(1,), indent=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.startswith("  ") for line in lines)
    assert lines[0].split() == ["artifact", "n", "why"] and set(lines[1].strip()) == {"─"}
    assert lines[2] == f"  finetune/0123456789abcdef   5  {ROWS[0][2].strip()}"
    assert lines[3] == "  mine" + " " * 23 + "12"
    print_table([])
    assert capsys.readouterr().out == ""


def test_without_headers_there_is_no_rule() -> None:
    assert table_text([("a", 1), ("bb", 2)], ()) == "a   1\nbb  2"


def test_a_terminal_gets_folded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pty.openpty()
    monkeypatch.setenv("COLUMNS", "60")
    with os.fdopen(far, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        print_table(ROWS)
        terminal.flush()
        seen = os.read(near, 1 << 14).decode()
    os.close(near)
    assert len(seen.splitlines()) > len(ROWS) and "\x1b" not in seen
    assert "".join(seen.split()).count("longwords") == 12  # folded, nothing cut off


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), ("a", "a"), (b"\x01", "01"), ([1, None], "[1, null]")]
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text
