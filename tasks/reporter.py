"""PrefectReporter: a stage's progress, notes, tables and pictures as artifacts of its run."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from kontext.engine.stage import Reporter
from tasks.markdown import artifact_link, json_safe, picture, stage_key

MAX_TABLE_ROWS = 500
PROGRESS_SECONDS = 2.0

Log = logging.Logger | logging.LoggerAdapter[Any]


@dataclass(frozen=True)
class Published:
    """An artifact that a stage published."""

    key: str
    kind: str  # progress, markdown, table or picture
    caption: str
    link: str  # path of its page


class PrefectReporter(Reporter):
    """Publishes artifacts of its run. Must be used inside a flow or task run.

    An unreachable server never fails a stage: the artifact is lost, and the log says so.
    """

    def __init__(self, stage: str, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(log)
        self._stage = stage
        self._clock = clock
        self._progress: UUID | None = None
        self._percent = -1.0
        self._updated = float("-inf")
        self._published: dict[str, Published] = {}

    @property
    def published(self) -> list[Published]:
        """What was published so far, each key once."""
        return list(self._published.values())

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Move the stage's bar, at most every PROGRESS_SECONDS; log every tenth of the way."""
        super().progress(done, total, message)
        percent = round(100 * min(1.0, max(0.0, done / total if total else 1.0)), 1)
        now = self._clock()
        due = percent >= 100 or now - self._updated >= PROGRESS_SECONDS
        if percent == self._percent or not due:
            return
        self._percent, self._updated = percent, now
        self._publish("progress", "progress", message, self._send_progress)

    def markdown(self, key: str, text: str) -> None:
        """Publish a page of text."""
        self._publish(
            key, "markdown", key, lambda name, _: create_markdown_artifact(text, key=name)
        )

    def table(self, key: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Publish rows as a table; no more than MAX_TABLE_ROWS of them."""
        cut = [json_safe(row) for row in rows[:MAX_TABLE_ROWS]]
        note = f"first {MAX_TABLE_ROWS} of {len(rows)} rows" if len(rows) > len(cut) else key
        self._publish(key, "table", note, partial(create_table_artifact, cut))

    def image(self, key: str, png: bytes, caption: str) -> None:
        """Publish a picture (the bytes of a PNG) with its caption."""
        text = picture(png, caption)
        self._publish(key, "picture", caption, partial(create_markdown_artifact, text))

    def _send_progress(self, key: str, message: str) -> object:
        if self._progress is None:
            created = create_progress_artifact(self._percent, key, f"{self._stage}: progress")
            assert isinstance(created, UUID)
            self._progress = created
        else:
            update_progress_artifact(self._progress, self._percent, message or None)
        return self._progress

    def _publish(
        self, key: str, kind: str, caption: str, send: Callable[[str, str], object]
    ) -> None:
        name = stage_key(self._stage, key)
        try:
            made = send(name, caption)
        except httpx.HTTPError as error:
            self._log.warning("artifact %s was not published: %s", name, error)
            return
        self._published[name] = Published(name, kind, caption, artifact_link(name, made))


class _Forward(logging.Handler):
    """Hands library log records to the run's logger, which sends them to the server."""

    def __init__(self, target: Log) -> None:
        super().__init__()
        self._target = target

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record again, under the run."""
        self._target.log(record.levelno, "%s", self.format(record))


@contextlib.contextmanager
def forward_logs(target: Log) -> Iterator[None]:
    """Send the records of kontext's loggers to `target` while inside."""
    handler, logger = _Forward(target), logging.getLogger("kontext")
    before = logger.level
    logger.addHandler(handler)
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
