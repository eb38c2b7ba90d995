"""A real HTTP server that speaks as an OpenAI-compatible endpoint, well or badly, as told."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Say:
    """What the server does with a request."""

    body: bytes | str = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: float = 0.0  # seconds before it says anything
    cut: bool = False  # the connection is closed in the middle
    drip: float = 0.0  # seconds between single bytes


def completion(content: Any, tokens: tuple[int, int] | None = (100, 20), **more: Any) -> Say:
    """A chat completion with this content (JSON where it is not a text)."""
    text = content if isinstance(content, str) or content is None else json.dumps(content)
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    reply: dict[str, Any] = {"id": "x", "model": "served-vlm", "choices": [choice]}
    if tokens:
        reply["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return Say(json.dumps(reply))


def fails(status: int, message: str = "", **headers: str) -> Say:
    """An error as OpenAI says it."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Say(json.dumps({"error": {"message": message}}), status, names)


class ChatServer:
    """Answers by `speak(body, times)`: the request, and how often this one was sent before."""

    def __init__(self, speak: Callable[[dict[str, Any], int], Say]) -> None:
        self.speak = speak
        self.bodies: list[dict[str, Any]] = []
        self.times: Counter[str] = Counter()
        self.keys: list[str] = []
        self.at: list[float] = []
        self.errors: list[BaseException] = []  # of `speak`
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.handle(self)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        if request.path != "/v1/chat/completions":
            return _send(request, fails(404, "no such path"))
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self._lock:
            self.at.append(time.monotonic())
            self.bodies.append(body)
            self.keys.append(request.headers.get("Authorization", ""))
            same = json.dumps(body, sort_keys=True)
            before = self.times[same]
            self.times[same] += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            try:
                say = self.speak(body, before)
            except BaseException as error:
                self.errors.append(error)
                raise
            time.sleep(say.hang)
            _send(request, say)
        finally:
            with self._lock:
                self._at_once -= 1

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(speak: Callable[[dict[str, Any], int], Say]) -> Iterator[ChatServer]:
    """A running server."""
    server = ChatServer(speak)
    try:
        yield server
    finally:
        server.close()


def said(body: dict[str, Any]) -> dict[str, Any]:
    """The facts in a request for a caption."""
    facts: dict[str, Any] = json.loads(body["messages"][1]["content"][0]["text"])
    return facts


def pictures(body: dict[str, Any]) -> list[str]:
    """Addresses of the pictures in a request."""
    parts = body["messages"][1]["content"]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def _send(request: BaseHTTPRequestHandler, say: Say) -> None:
    data = say.body.encode() if isinstance(say.body, str) else say.body
    try:
        request.send_response(say.status)
        for name, value in say.headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if say.drip:
            for byte in data:
                request.wfile.write(bytes([byte]))
                time.sleep(say.drip)
        else:
            request.wfile.write(data[: len(data) // 2] if say.cut else data)
    except OSError:  # the other side has gone
        pass
    request.close_connection = True
