"""The fault matrix itself: that its points exist, its proxy breaks things, its table is kept."""

import functools
import http.client
import importlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.faults.__main__ import DIRECT, S3_CASES, SERVER_CASES, Row, merged, table
from tests.faults.child import POINTS
from tests.faults.proxy import FaultProxy


@pytest.mark.parametrize("point", POINTS)
def test_every_point_is_a_function_of_the_library(point: str) -> None:
    module, path, when = POINTS[point]
    owner = importlib.import_module(module)
    assert callable(functools.reduce(getattr, path.split("."), owner))
    assert when in ("before", "after")


def test_there_are_thirty_cases_with_names_of_their_own() -> None:
    cases = [*DIRECT, *S3_CASES, *SERVER_CASES]
    assert len({(case.group, case.name) for case in cases}) == len(cases) >= 30


def test_a_partial_run_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    first, second, third = DIRECT[:3]
    file = tmp_path / "faults.md"
    rows = [Row(first, "passed", 4.0), Row(second, "FAILED", 5.0, "a | b: c")]
    file.write_text(table(rows))
    assert "1 passed, 1 failed, 0 skipped" in file.read_text()
    found = merged(file, [Row(third, "passed", 6.0), Row(first, "FAILED", 1.0, "worse")])
    assert [(r.case.name, r.outcome, r.seconds, r.said) for r in found] == [
        (first.name, "FAILED", 1.0, "worse"),
        (second.name, "FAILED", 5.0, "a | b: c"),
        (third.name, "passed", 6.0, ""),
    ]


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"0123456789")

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    server = HTTPServer(("127.0.0.1", 0), _Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made = FaultProxy(f"http://127.0.0.1:{server.server_port}")
    made.share = 1.0
    yield made
    made.close()
    server.shutdown()
    server.server_close()


def _get(proxy: FaultProxy) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    connection.request("GET", "/")
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_proxy_passes_on_and_breaks(proxy: FaultProxy) -> None:
    assert _get(proxy) == (200, b"0123456789")
    assert proxy.hits == 0
    proxy.mode = "error"
    assert _get(proxy)[0] == 500
    for mode in ("cut", "reset", "down"):
        proxy.mode = mode
        with pytest.raises((OSError, http.client.HTTPException)):
            _get(proxy)
    assert proxy.hits == 4
