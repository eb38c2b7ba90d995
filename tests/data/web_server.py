"""A real HTTP server that gives pictures, well or badly, as told by path."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Give:
    """What the server does with a request."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: bool = True  # say Content-Length
    endless: bool = False  # the body again and again
    drip: float = 0.0  # seconds between single bytes
    cut: int = 0  # bytes that are sent before the connection is reset
    hang: float = 0.0  # seconds before anything is said


Route = Give | Callable[[int], Give]  # by how often the path was asked before


class WebServer:
    """`routes` by path; anything else is 404. `paths` and `agents` of the requests, in order."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self.routes = dict(routes)
        self.paths: list[str] = []
        self.agents: list[str] = []
        self.at: list[float] = []
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.handle(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        with self._lock:
            self.at.append(time.monotonic())
            self.paths.append(request.path)
            self.agents.append(request.headers["User-Agent"])
            before = self._times[request.path]
            self._times[request.path] += 1
        route = self.routes.get(request.path, Give(status=404))
        give = route if isinstance(route, Give) else route(before)
        try:
            _send(request, give)
        except OSError:  # the other side has gone
            request.close_connection = True

    def asked(self, path: str) -> int:
        """How often a path was asked for."""
        return self._times[path]

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _send(request: BaseHTTPRequestHandler, give: Give) -> None:
    time.sleep(give.hang)
    request.send_response(give.status)
    for name, value in give.headers.items():
        request.send_header(name, value)
    if give.length and not give.endless:
        request.send_header("Content-Length", str(len(give.body)))
    else:
        request.send_header("Connection", "close")
    request.end_headers()
    if give.drip:
        for byte in give.body:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(give.drip)
    elif give.cut:
        request.wfile.write(give.body[: give.cut])
        request.close_connection = True
    else:
        request.wfile.write(give.body)
        while give.endless:
            request.wfile.write(bytes(1 << 16))


@contextmanager
def web(routes: Mapping[str, Route]) -> Iterator[WebServer]:
    """A running server."""
    server = WebServer(routes)
    try:
        yield server
    finally:
        server.close()
