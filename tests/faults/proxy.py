"""A TCP proxy in front of an S3 server that can be down, slow, or break one request in ten."""

import random
import socket
import struct
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class FaultProxy:
    """`mode` is one of ok, down, error, slow, reset, cut; `share` of the requests suffer it."""

    def __init__(self, target: str) -> None:
        self.target = urlparse(target)
        self.mode = "ok"
        self.share = 0.1
        self.seconds = 1.0
        self.hits = 0
        self._chance = random.Random(7)
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def suffers(self) -> str:
        """What happens to this request."""
        with self._lock:
            hit = self.mode == "down" or self._chance.random() < self.share
            if self.mode != "ok" and hit:
                self.hits += 1
                return self.mode
        return "ok"

    def down_for(self, seconds: float) -> None:
        """Refuse everything, then be well again."""
        self.mode = "down"
        threading.Timer(seconds, lambda: setattr(self, "mode", "ok")).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultProxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        fate = self.owner.suffers()
        if fate in ("down", "reset"):
            self._reset()
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if fate == "error":
            self._answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
            return
        if fate == "slow":
            time.sleep(self.owner.seconds)
        status, headers, answer = self._forward(body)
        self._answer(status, headers, answer, cut=fate == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = HTTPConnection(str(self.owner.target.hostname), self.owner.target.port)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # the signature covers the host header
                if name.lower() not in ("connection", "transfer-encoding"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        for name, value in headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._reset()

    def _reset(self) -> None:
        """RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):  # reset on purpose
            return

    def log_message(self, format: str, *args: object) -> None:
        return
