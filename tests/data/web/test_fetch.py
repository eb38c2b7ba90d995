"""One picture from a real server, whatever it answers: bytes, or one reason."""

import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from kontext.data.web import addresses
from kontext.data.web.fetch import Fetcher
from kontext.data.web.problems import FetchError
from schemas.sections.web import WebConfig
from tests.data.layouts.files import png
from tests.data.web_server import Give, WebServer, web

PNG = png(1)
HTML = Give(b"<html>no such picture</html>", headers={"Content-Type": "image/png"})


def to(place: str, status: int = 302) -> Give:
    return Give(status=status, headers={"Location": place})


def after(times: int, bad: Give) -> Any:
    return lambda before: bad if before < times else Give(PNG)


ROUTES = {
    "/robots.txt": Give(b"User-agent: *\nDisallow: /closed\n"),
    "/good": Give(PNG), "/text": Give(PNG, headers={"Content-Type": "text/plain"}),
    "/chunk": Give(PNG, length=False), "/gone": Give(status=410), "/never": Give(status=500),
    "/busy": after(2, Give(status=429, headers={"Retry-After": "7"})),
    "/date": after(1, Give(status=503, headers={"Retry-After": formatdate(time.time() + 3600)})),
    "/odd": after(1, Give(status=503, headers={"Retry-After": "Mon, 01 Jan 99999999999 00:00:00"})),
    "/fails": after(2, Give(status=500)), "/breaks": after(1, Give(PNG, cut=9)),
    "/html": HTML, "/svg": Give(b"<svg xmlns='x'/>"), "/empty": Give(),
    "/far": to("/near"), "/near": to("good", 301), "/loop": to("/loop"),
    "/file": to("file:///etc/passwd"), "/inside": to("http://127.0.0.1:9/x"),
    "/meta": to("http://169.254.169.254/latest/"), "/nowhere": Give(status=302),
    "/shut": to("/closed/x"), "/closed/x": Give(PNG), "/broken": to("http://[::1"),
    "/no": Give(PNG, headers={"X-Robots-Tag": "noindex, noai"}),
    "/big": Give(PNG + bytes(9000)), "/endless": Give(PNG, endless=True),
    "/claims": Give(PNG, headers={"Content-Length": "99999999999"}, length=False),
    "/drips": Give(PNG, drip=0.05), "/hangs": Give(PNG, hang=0.5),
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with web(ROUTES) as running:
        yield running


def fetcher(tmp_path: Path, server: WebServer, waits: list[float], **options: Any) -> Fetcher:
    """One whose waits are written down, not waited for."""
    settings = {"max_bytes": 8000, "host_wait": 0}
    config = WebConfig(**{"allowed_hosts": (server.host,)} | settings | options)
    return Fetcher(config, tmp_path, sleep=waits.append)


@pytest.mark.parametrize("path", ["/good", "/text", "/chunk", "/far", "/breaks", "/fails", "/odd"])
def test_pictures_come_through(tmp_path: Path, server: WebServer, path: str) -> None:
    with fetcher(tmp_path, server, []) as used:
        assert used.get(server.url + path) == PNG
    assert set(server.agents) == {"kontext-data"}


@pytest.mark.parametrize(
    ("path", "reason", "times"),
    [
        ("/none", "http_404", 1), ("/gone", "http_410", 1), ("/never", "http_500", 4),
        ("/html", "not_picture", 1), ("/svg", "not_picture", 1), ("/empty", "not_picture", 1),
        ("/loop", "too_many_redirects", 6), ("/file", "url_refused", 1),
        ("/inside", "address_private", 1), ("/meta", "address_private", 1),
        ("/nowhere", "http_302", 1), ("/broken", "url_refused", 1), ("/shut", "robots", 1),
        ("/closed/y", "robots", 0), ("/no", "opted_out", 1), ("/big", "too_many_bytes", 1),
        ("/endless", "too_many_bytes", 1), ("/claims", "too_many_bytes", 1),
        ("/drips", "fetch_timeout", 4), ("/hangs", "fetch_timeout", 4),
    ],
)  # fmt: skip
def test_every_failure_has_its_reason(
    tmp_path: Path, server: WebServer, path: str, reason: str, times: int
) -> None:
    slow = {"read_seconds": 0.2, "total_seconds": 0.4} if reason == "fetch_timeout" else {}
    with fetcher(tmp_path, server, [], **slow) as used, pytest.raises(FetchError) as caught:
        used.get(server.url + path)
    assert caught.value.reason == reason
    assert server.asked(path) == times and server.asked("/closed/x") == 0


@pytest.mark.parametrize(("path", "asked_for"), [("/busy", 7.0), ("/date", 60.0)])
def test_the_server_says_how_long_it_is_left_alone(
    tmp_path: Path, server: WebServer, path: str, asked_for: float
) -> None:
    waits: list[float] = []
    with fetcher(tmp_path, server, waits) as used:
        assert used.get(server.url + path) == PNG
    assert asked_for in waits  # 60: no longer than the settings say
    # others do not ask this host either meanwhile
    assert max(waits) <= 61 and sum(wait > 0.9 * asked_for for wait in waits) >= 2


def test_a_host_that_is_away_is_not_asked_for_long(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        waits: list[float] = []
        config = WebConfig(allowed_hosts=(host,), host_wait=0)
        with Fetcher(config, tmp_path, sleep=waits.append) as used:
            for number in range(20):
                with pytest.raises(FetchError) as caught:
                    used.get(f"http://{host}/{number}")
                assert caught.value.reason == "robots_unreachable"
    assert sum(wait > 0.1 for wait in waits) == 3


@pytest.mark.parametrize(("status", "found"), [(503, "robots_unreachable"), (403, "picture")])
def test_robots_that_fail_allow_nothing_and_that_are_not_there_all(
    tmp_path: Path, status: int, found: str
) -> None:
    routes = {"/robots.txt": Give(status=status), "/a": Give(PNG)}
    with web(routes) as running, fetcher(tmp_path, running, []) as used:
        try:
            said = "picture" if used.get(running.url + "/a") == PNG else ""
        except FetchError as error:
            said = error.reason
        assert (said, running.asked("/a")) == (found, int(found == "picture"))


def test_a_connection_goes_to_the_address_that_was_looked_at(
    tmp_path: Path, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that answers otherwise from the second time on leads nowhere else."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def turning(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(host)
        known = host != "turning.example"
        inner = "127.0.0.1" if asked.count(host) == 1 else "127.0.0.9"
        return real(host if known else inner, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", turning)
    monkeypatch.setattr(addresses, "is_public", lambda ip: str(ip) == "127.0.0.1")
    port = server.host.rpartition(":")[2]
    with fetcher(tmp_path, server, [], allowed_hosts=()) as used:
        assert used.get(f"http://turning.example:{port}/good") == PNG
    assert asked.count("turning.example") == 1


def test_one_host_is_asked_in_turns_from_everywhere(tmp_path: Path, server: WebServer) -> None:
    waits: list[float] = []
    for _ in range(3):  # as other processes: they share nothing but the home
        with fetcher(tmp_path, server, waits, host_wait=100) as used:
            used.get(server.url + "/good")
    # robots.txt and the picture, three times: each a hundred seconds after the one before
    assert [round(wait, -1) for wait in waits] == [100, 200, 300, 400, 500]
