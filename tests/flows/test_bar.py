from __future__ import annotations

import io
import os
import pty
import sys

import pytest

from flows.bar import edit_bar


def _edit() -> None:
    with edit_bar() as bar:
        for phase in ("loading", "sampling"):
            bar.on_phase(phase)
        for step in range(1, 4):
            bar.on_step(step, 3)


def test_a_terminal_sees_phases_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pty.openpty()
    with os.fdopen(far, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        _edit()
    seen = os.read(near, 1 << 16).decode()
    os.close(near)
    assert "sampling" in seen and "3/3" in seen


def test_a_pipe_sees_nothing_even_where_colours_are_forced(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    _edit()
    assert pipe.getvalue() == "" and capfd.readouterr() == ("", "")
