import io
import os
import pty
import sys
from contextlib import suppress

import pytest

from flows.cli.shared.bar import edit_bar


def _edit() -> None:
    with edit_bar() as bar:
        for phase in ("loading", "sampling"):
            bar.on_phase(phase)
        for step in range(1, 4):
            bar.on_step(step, 3)


def _everything(near: int) -> str:
    """All that was written to the far end: one read may give only the first of several writes."""
    parts = []
    with os.fdopen(near, "rb", buffering=0) as reader, suppress(OSError):  # Linux: EIO at the end
        while part := reader.read(1 << 12):
            parts.append(part)
    return b"".join(parts).decode()


def test_a_terminal_sees_phases_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pty.openpty()
    with os.fdopen(far, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        _edit()
    seen = _everything(near)
    assert "sampling" in seen and "3/3" in seen


def test_a_pipe_sees_nothing_even_where_colours_are_forced(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    _edit()
    assert pipe.getvalue() == "" and capfd.readouterr() == ("", "")
