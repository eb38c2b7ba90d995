"""Follows a pipeline run on the terminal: one tidy line per stage, log lines above them."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from flows.backoff import next_pause
from flows.names import ACTIVE, artifact_tag
from flows.server.api import TERMINAL, Api
from kontext.engine.stage import PlannedStage
from tasks.markdown import duration

INFO, WARNING = 20, 30
_LAST = "Finished in state"  # of a run, from Prefect itself
# What Prefect says about itself on every run. The stage lines and the pipeline's own log say it.
_NOISE = (
    "Beginning flow run",
    _LAST,
    "Created task run",
    "Created subflow run",
    "View at",
    "Task run",
    "Executing",
    "Flow run '",
    "Beginning subflow run",
    "Check whether the flow run exceeded",
    "Encountered exception during execution",
    "Engine execution exited",
    "Opening process",
    "Worker '",
    "Completed submission",
    "Process for flow run",
)
_ICONS = {
    "reused": ("♻", "cyan", "reused"),
    "waiting": ("·", "dim", "waiting"),
    "queued": ("…", "dim", "queued"),
    "COMPLETED": ("✔", "green", "done"),
    "RUNNING": ("▶", "yellow", "running"),
    "FAILED": ("✘", "red", "failed"),
    "CRASHED": ("✘", "red", "crashed"),
    "CANCELLED": ("■", "red", "cancelled"),
    "CANCELLING": ("■", "red", "cancelling"),
}


@dataclass
class StageLine:
    """One stage as shown."""

    stage: str
    state: str = "waiting"
    seconds: float | None = None
    percent: float | None = None
    run_id: str = ""


@dataclass
class Watch:
    """Polls the server until the run ends. `plan` is what the run is expected to do."""

    api: Api
    run_id: str
    plan: Sequence[PlannedStage]
    console: Console
    logs: bool = True
    sleep: Callable[[float], None] = time.sleep
    _others: set[str] = field(default_factory=set)  # runs of other pipelines that it waits for
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.lines = {
            step.stage: StageLine(step.stage, "reused" if step.reused else "waiting")
            for step in self.plan
        }
        self._log = LogTail(self.api, lambda text: self.console.print(text, soft_wrap=True))
        self._tags = {artifact_tag(step.stage, step.digest): step.stage for step in self.plan}

    def follow(self) -> Any:
        """Block until the run is over and return it."""
        live: AbstractContextManager[Any] = nullcontext()
        if self.console.is_terminal:
            live = Live(console=self.console, get_renderable=self._table, refresh_per_second=4)
        with live:
            pause = 1.0
            while True:
                run = self.api.run(self.run_id)
                news = self._update([*self.api.children(self.run_id), *self._adopted()])
                self._show_logs()
                if run["state_type"] in TERMINAL:
                    break
                pause = next_pause(pause, news, first=1.0)
                self.sleep(pause)
            self._show_logs(over=True)
        if not self.console.is_terminal:
            self.console.print(self._table())
        return run

    def _adopted(self) -> list[Any]:
        """Runs that somebody else dispatched and that make what we wait for."""
        waiting = [t for t, name in self._tags.items() if self.lines[name].state == "waiting"]
        if waiting:
            found = self.api.runs({"tags": {"any_": waiting}, "state": ACTIVE})
            self._others.update(run["id"] for run in found)
        return self.api.runs({"id": {"any_": sorted(self._others)}}) if self._others else []

    def _update(self, children: Sequence[Mapping[str, Any]]) -> bool:
        """Take in the children's states and progress; True where a state changed."""
        news = False
        for child in children:
            name = next((tag for tag in child["tags"] if tag in self.lines), None)
            if name is None:
                continue
            line, before = self.lines[name], self.lines[name].state
            state = child["state_type"]
            line.state = "queued" if state in ("SCHEDULED", "PENDING") else state
            line.seconds = child.get("estimated_run_time") or child.get("total_run_time")
            line.run_id = child["id"]
            news = news or line.state != before
            if line.state != before and not self.console.is_terminal:
                self.console.print(self._text(line))
        running = {line.run_id: line for line in self.lines.values() if line.state == "RUNNING"}
        if running:
            for artifact in self.api.artifacts(list(running), "progress"):
                running[artifact["flow_run_id"]].percent = float(artifact["data"])
        return news

    def _show_logs(self, over: bool = False) -> None:
        if not self.logs:
            return
        names = {line.run_id: line.stage for line in self.lines.values() if line.run_id}
        names[self.run_id] = "pipeline"
        if over:
            self._log.show_rest(names, self.run_id)
        else:
            self._log.show(names)

    def _table(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        for line in self.lines.values():
            grid.add_row(*self._cells(line))
        done = sum(line.state in ("reused", "COMPLETED") for line in self.lines.values())
        total = duration(time.monotonic() - self._began)
        grid.add_row("", Text(f"{done}/{len(self.lines)} stages", style="dim"), "", total)
        return grid

    def _cells(self, line: StageLine) -> tuple[Text, Text, Text, str]:
        icon, colour, word = _ICONS.get(line.state, ("?", "", line.state.lower()))
        if line.state == "RUNNING" and line.percent is not None:
            word = f"{word} {line.percent:.0f} %"
        time_text = duration(line.seconds) if line.seconds else ""
        name = Text(line.stage, style="bold" if line.state == "RUNNING" else "")
        return Text(icon, style=colour), name, Text(word, style=colour), time_text

    def _text(self, line: StageLine) -> Text:
        icon, name, word, seconds = self._cells(line)
        return Text(" ").join([icon, Text(f"{name.plain:18}"), word, Text(seconds)])


class LogTail:
    """Says each log record of some runs once."""

    def __init__(self, api: Api, say: Callable[[Text], None]) -> None:
        self._api, self._say = api, say
        self._seen: set[str] = set()
        self._over: set[str] = set()  # runs whose last record has come
        self._after = ""

    def show(self, names: Mapping[str, str]) -> None:
        """Say what is new; `names` are those of the runs, by id."""
        for record in self._api.logs(list(names), INFO, self._after):
            if record["id"] in self._seen:
                continue
            self._seen.add(record["id"])
            if str(record["message"]).startswith(_LAST):
                self._over.add(record["flow_run_id"])
            text = log_line(record, names.get(record["flow_run_id"], ""))
            if text is not None:
                self._say(text)
        # records of several runs arrive late and out of order
        since = datetime.now(UTC) - timedelta(seconds=30)
        self._after = f"{since:%Y-%m-%dT%H:%M:%SZ}"

    def show_rest(self, names: Mapping[str, str], run_id: str, seconds: float = 5.0) -> None:
        """Say what is still on its way when a run is over.

        Records are sent in batches, so the last ones come after the run's final state. A run whose
        process died has no last record: it is waited for `seconds` at most.
        """
        limit = time.monotonic() + seconds
        self.show(names)
        while run_id not in self._over and time.monotonic() < limit:
            time.sleep(0.2)
            self.show(names)


def log_line(record: Mapping[str, Any], stage: str) -> Text | None:
    """A server log record for the terminal; None for Prefect's own small talk."""
    message = str(record["message"])
    level = int(record["level"])
    if message.startswith(_NOISE):
        return None
    if level >= WARNING:  # tracebacks stay on the run's page
        message = message.splitlines()[0] if message else ""
    style = "red" if level > WARNING else "yellow" if level == WARNING else "dim"
    return Text(f"{record['timestamp'][11:19]} {stage:>17} │ {message}", style=style)
