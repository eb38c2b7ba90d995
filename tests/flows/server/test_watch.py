import io
from typing import Any

import pytest
from rich.console import Console

from flows.server.watch import LogTail, Watch, log_line
from kontext.engine.stage import PlannedStage


def _record(message: str, level: int = 20) -> dict[str, Any]:
    return {"timestamp": "2026-01-02T03:04:05Z", "message": message, "level": level}


@pytest.mark.parametrize(
    ("message", "level", "shown"),
    [
        ("kept 7 of 9", 20, "03:04:05              mine │ kept 7 of 9"),
        ("Worker 'kontext-cpu' submitting flow run", 20, None),
        ("Finished in state Completed()", 20, None),
        ("Encountered exception during execution: X\nTraceback", 40, None),
        ("index: failed: X\nmore", 40, "03:04:05              mine │ index: failed: X"),
    ],
)
def test_log_lines(message: str, level: int, shown: str | None) -> None:
    text = log_line(_record(message, level), "mine")
    assert (text.plain if text else None) == shown


class _LateLog:
    """An API whose records of a run come one per look, after the run has ended."""

    def __init__(self, messages: list[str]) -> None:
        self._left = [
            {"id": str(i), "flow_run_id": "run", **_record(text)} for i, text in enumerate(messages)
        ]

    def logs(self, run_ids: list[str], level: int, after: str) -> list[Any]:
        return [self._left.pop(0)] if self._left else []


def test_the_rest_of_a_log_is_waited_for_and_a_log_without_an_end_is_left() -> None:
    for last, seconds in (("Finished in state Completed()", 60.0), ("nothing follows", 0.5)):
        said: list[str] = []
        late: Any = _LateLog(["first", "second", last])
        tail = LogTail(late, lambda text, said=said: said.append(text.plain))
        tail.show_rest({"run": "mine"}, "run", seconds)
        assert [line.rpartition(" ")[2] for line in said[:2]] == ["first", "second"]


class _Script:
    """An API that plays back what a server would say, one step per look."""

    def __init__(self) -> None:
        self.step = 0
        child = {"id": "c1", "tags": ["kontext", "mine"], "estimated_run_time": 3.0}
        orphan = {"id": "c2", "tags": ["index", "index/d3"], "estimated_run_time": 9.0}
        self.states = [
            ("RUNNING", [], []),
            ("RUNNING", [{**child, "state_type": "RUNNING"}], [orphan]),
            (
                "COMPLETED",
                [{**child, "state_type": "COMPLETED"}],
                [{**orphan, "state_type": "COMPLETED"}],
            ),
        ]

    def run(self, run_id: str) -> dict[str, Any]:
        return {"state_type": self.states[self.step][0]}

    def children(self, run_id: str) -> list[Any]:
        return self.states[self.step][1]

    def runs(self, flow_runs: dict[str, Any]) -> list[Any]:
        return [{"state_type": "RUNNING", **run} for run in self.states[self.step][2]]

    def artifacts(self, run_ids: list[str], kind: str) -> list[Any]:
        return [{"flow_run_id": run_ids[0], "data": 40.0}]

    def logs(self, run_ids: list[str], level: int, after: str) -> list[Any]:
        record = {"id": "l1", "flow_run_id": run_ids[0], **_record("one line")}
        return [record]  # the same record is found on every look

    def next(self, seconds: float) -> None:
        self.step += 1


def test_follow_shows_states_own_and_adopted_runs_and_each_log_line_once() -> None:
    plan = [
        PlannedStage("ingest", "d1", True, ""),
        PlannedStage("mine", "d2", False, ""),
        PlannedStage("index", "d3", False, ""),
    ]
    script, out = _Script(), io.StringIO()
    console = Console(file=out, width=100)
    api: Any = script
    watch = Watch(api, "run", plan, console, sleep=script.next)
    assert watch.follow()["state_type"] == "COMPLETED"
    states = {name: line.state for name, line in watch.lines.items()}
    assert states == {"ingest": "reused", "mine": "COMPLETED", "index": "COMPLETED"}
    text = out.getvalue()
    assert text.count("one line") == 1
    assert "3/3 stages" in text
