import logging
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tasks import reporter
from tasks.reporter import PrefectReporter, forward_logs


class Sent:
    """Records what would go to the server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.down = False
        for name in (
            "create_markdown_artifact",
            "create_table_artifact",
            "create_progress_artifact",
            "update_progress_artifact",
        ):
            monkeypatch.setattr(reporter, name, self._record(name))

    def _record(self, name: str) -> Any:
        def send(*args: Any, **kwargs: Any) -> UUID:
            if self.down:
                raise httpx.ConnectError("the server is away")
            self.calls.append((name, args, kwargs))
            return uuid4()

        return send

    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


def _reporter(now: list[float]) -> PrefectReporter:
    return PrefectReporter("mine", logging.getLogger("test"), clock=lambda: now[0])


def test_progress_is_one_artifact_updated_at_most_every_two_seconds(sent: Sent) -> None:
    now = [0.0]
    stage = _reporter(now)
    for step in range(1, 101):
        now[0] += 0.1
        stage.progress(step, 100, "working")
    assert sent.names()[0] == "create_progress_artifact"
    assert 4 <= sent.names().count("update_progress_artifact") <= 6
    assert sent.calls[-1][1][1] == 100.0  # the end is always shown


def test_progress_without_total_is_complete(sent: Sent) -> None:
    _reporter([0.0]).progress(0, 0)
    assert sent.calls[0][1][0] == 100.0


def test_published_artifacts_are_listed_with_their_pages(sent: Sent) -> None:
    stage = _reporter([0.0])
    stage.markdown("About it", "text")
    stage.table("counts", [{"share": float("nan")}] * 600)
    stage.image("samples", b"not decoded when small", "a grid")
    assert [(s.key, s.kind) for s in stage.published] == [
        ("mine-about-it", "markdown"),
        ("mine-counts", "table"),
        ("mine-samples", "picture"),
    ]
    assert all(s.link.startswith("/v2/artifacts/artifact/") for s in stage.published)
    rows = sent.calls[1][1][0]
    assert len(rows) == 500
    assert rows[0] == {"share": None}


def test_a_lost_server_does_not_fail_the_stage(
    sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    sent.down = True
    stage = _reporter([0.0])
    stage.progress(1, 2)
    stage.markdown("about", "text")
    assert stage.published == []
    assert "mine-about was not published" in caplog.text


def test_library_logs_reach_the_run_logger_and_only_inside() -> None:
    lines: list[str] = []
    target = logging.getLogger("test.target")
    target.handlers = [logging.Handler()]
    target.handlers[0].emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    target.setLevel(logging.INFO)
    target.propagate = False
    library = logging.getLogger("kontext.stages.mine")
    with forward_logs(target):
        library.info("kept %d of 100%%", 7)
        library.debug("not shown")
    library.info("outside")
    assert lines == ["kept 7 of 100%"]
