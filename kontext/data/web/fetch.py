"""One picture from its address, or the reason why there is none.

Every hop of a redirect is looked at as if it had been asked for: its scheme, its host's addresses,
its robots.txt. What comes is counted as it comes and left as soon as it is too much, or no picture.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin

import httpcore
import httpx

from kontext.data.decode.sniff import sniff
from kontext.data.patience import Patience
from kontext.data.web import robots
from kontext.data.web.addresses import Url, parsed
from kontext.data.web.hosts import Turns
from kontext.data.web.network import Deadline, GuardedBackend
from kontext.data.web.problems import FetchError, PassingError
from kontext.safety.keys import run_key
from schemas.sections.web import WebConfig

T = TypeVar("T")

_PASSING = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_ROBOTS_REDIRECTS = 5  # as RFC 9309 asks
_KNOWN_BY = 4096  # bytes by which a picture is known
_AWAY = 5  # addresses of a host in a row that it did not answer: the next are asked once


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")


class Fetcher:
    """Asks for pictures. Threads share one; `close` it, or use it as a context manager."""

    def __init__(
        self, config: WebConfig, home: Path, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._config, self._sleep = config, sleep
        self._turns = Turns(home, run_key(home))
        self._patience = Patience(config.tries, config.first_wait, config.longest_wait)
        self._deadline = Deadline()
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=config.parallel,
            network_backend=GuardedBackend(config.allowed_hosts, self._deadline),
        )
        self._lock = threading.Lock()
        self._robots: dict[str, robots.Robots | FetchError] = {}
        self._asking: dict[str, threading.Lock] = {}
        self._away: dict[str, int] = {}

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def get(self, address: str) -> bytes:
        """The bytes of the picture. Raises FetchError."""
        url = parsed(address)
        away = self._away.get(url.authority, 0)
        tries = 1 if away >= _AWAY else self._config.tries
        try:
            data = self._patiently(lambda: self._follow(url), str(url), url.authority, tries)
        except FetchError as error:
            lost = error.reason in ("unreachable", "fetch_timeout")
            self._away[url.authority] = away + 1 if lost else 0
            raise
        self._away[url.authority] = 0
        return data

    def _patiently(self, ask: Callable[[], T], key: str, host: str, tries: int) -> T:
        """What `ask` gives, at the latest at the last of its tries."""
        attempt = 1
        while True:
            try:
                return ask()
            except PassingError as error:
                if error.wait:
                    self._turns.rest(host, min(error.wait, self._config.longest_wait))
                if attempt >= tries:
                    raise
                self._sleep(self._patience.wait(key, attempt, error.wait))
                attempt += 1

    def _follow(self, url: Url) -> bytes:
        """The picture at the end of an address's redirects."""
        for _ in range(self._config.redirects + 1):
            rules = self._robots_of(url)
            if not rules.allows(url.target):
                raise FetchError("robots", "the host's robots.txt does not allow it")
            answer = self._ask(url, self._config.max_bytes, rules.delay, picture=True)
            header = robots.opted_out(answer.headers, self._config.user_agent)
            if header:
                raise FetchError("opted_out", header)
            if answer.status == 200:
                return answer.body
            url = _next(url, answer)
        raise FetchError("too_many_redirects", f"more than {self._config.redirects}")

    def _robots_of(self, url: Url) -> robots.Robots:
        """What the host asks of us; read once. Raises FetchError where nobody can tell."""
        with self._lock:
            lock = self._asking.setdefault(url.origin, threading.Lock())
        with lock:
            if url.origin not in self._robots:
                try:
                    found: robots.Robots | FetchError = self._patiently(
                        lambda: self._read_robots(url),
                        url.origin,
                        url.authority,
                        self._config.tries,
                    )
                except FetchError as error:
                    found = error
                self._robots[url.origin] = found
            known = self._robots[url.origin]
        if isinstance(known, FetchError):
            # without its robots.txt a host that is there asks for nothing to be read
            reason = "robots_unreachable" if isinstance(known, PassingError) else known.reason
            raise FetchError(reason, f"robots.txt: {known}")
        return known

    def _read_robots(self, url: Url) -> robots.Robots:
        at = Url(url.scheme, url.host, url.port, "/robots.txt")
        for _ in range(_ROBOTS_REDIRECTS + 1):
            answer = self._ask(at, robots.LONGEST, 0.0, picture=False)
            if answer.status == 200:
                text = answer.body.decode("utf-8", "replace")
                return robots.parse(text, self._config.user_agent)
            try:
                at = _next(at, answer)
            except FetchError as error:
                if error.reason.startswith("http_4") and not isinstance(error, PassingError):
                    return robots.NO_RULES  # there is none
                raise
        return robots.NO_RULES

    def _ask(self, url: Url, most: int, delay: float, *, picture: bool) -> _Answer:
        """One request in its turn. Raises FetchError."""
        wait = self._turns.take(url.authority, max(self._config.host_wait, delay))
        if wait > 0:
            self._sleep(wait)
        config = self._config
        limits = {"connect": config.connect_seconds, "pool": config.total_seconds}
        limits |= dict.fromkeys(("read", "write"), config.read_seconds)
        headers: dict[bytes | str, bytes | str] = {
            "Host": url.authority,
            "User-Agent": config.user_agent,
            "Accept": "image/*,*/*;q=0.5" if picture else "text/plain,*/*;q=0.5",
            "Accept-Encoding": "identity",
        }
        place = httpcore.URL(
            scheme=url.scheme.encode(),
            host=url.host.encode(),
            port=url.port,
            target=url.target.encode(),
        )
        with (
            _as_fetch_errors(),
            self._deadline.of(config.total_seconds),
            self._pool.stream(
                "GET", place, headers=headers, extensions={"timeout": limits}
            ) as response,
        ):
            said = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in response.headers)
            answer = _Answer(response.status, said, b"")
            if response.status != 200:
                return answer
            if picture and robots.opted_out(said, config.user_agent):
                return answer
            body = _body(response, answer, most, picture)
        return _Answer(answer.status, said, body)


def _body(response: httpcore.Response, answer: _Answer, most: int, picture: bool) -> bytes:
    """The body, left as soon as it is too much (of a robots.txt: cut), or no picture."""
    length = answer.header("content-length")
    if picture and length.isdigit() and int(length) > most:
        raise FetchError("too_many_bytes", f"{int(length)} bytes, at most {most}")
    data, known = bytearray(), not picture
    for part in response.iter_stream():
        data += part
        if not known and len(data) >= _KNOWN_BY:
            _check_picture(data, answer)
            known = True
        if len(data) > most:
            if picture:
                raise FetchError("too_many_bytes", f"more than {most} bytes")
            return bytes(data[:most])
    if not known:
        _check_picture(data, answer)
    return bytes(data)


def _check_picture(data: bytearray, answer: _Answer) -> None:
    if sniff(bytes(data[:_KNOWN_BY])) in (None, "svg"):
        kind = " ".join(answer.header("content-type").split())[:80] or "nothing"
        raise FetchError("not_picture", f"no picture; the server calls it {kind}")


def _next(url: Url, answer: _Answer) -> Url:
    """Where a response leads to. Raises FetchError where it leads nowhere."""
    if answer.status in _REDIRECTS and answer.header("location"):
        try:
            there = urljoin(str(url), answer.header("location"))
        except ValueError as error:
            raise FetchError("url_refused", f"redirect: {error}") from error
        return parsed(there)
    reason, told = f"http_{answer.status}", f"the server answers {answer.status}"
    if answer.status in _PASSING:
        raise PassingError(reason, told, _seconds(answer.header("retry-after")))
    raise FetchError(reason, told)


def _seconds(text: str) -> float:
    """What Retry-After says: seconds, or a date; 0 for anything else."""
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        then = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())


@contextmanager
def _as_fetch_errors() -> Iterator[None]:
    """Turn what a connection raises into FetchErrors."""
    try:
        yield
    except httpcore.TimeoutException as error:
        raise PassingError("fetch_timeout", str(error) or "the server took too long") from error
    except (httpcore.RemoteProtocolError, httpcore.LocalProtocolError) as error:
        raise PassingError("connection_lost", str(error)) from error
    except httpcore.ConnectError as error:
        raise PassingError("unreachable", str(error)) from error
    except (httpcore.NetworkError, OSError) as error:
        raise PassingError("connection_lost", str(error)) from error
