"""One HTTP request to a chat endpoint, and what kind of reply it is."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from kontext.data.chat.answers import completion
from kontext.data.chat.replies import Cost, Exchange
from kontext.errors import RecipeError

if TYPE_CHECKING:
    import httpx

_LARGEST = 8 << 20  # bytes of a reply; an answer has some thousands
_PASSING = frozenset({408, 409, 425, 429})  # and all from 500
_HOPELESS = frozenset({401, 402, 403, 404, 405, 407})  # and all below 400: no request would do
_FILTERED = re.compile(
    r"content.?(filter|policy|management policy)|moderation|flagged|responsible.?ai", re.IGNORECASE
)
_SECRET = 12  # characters from which a key is one, and not a word such as EMPTY
_NO_MONEY = "insufficient_quota"  # a 429 that does not pass by itself


class Reply(NamedTuple):
    """An exchange, and what to do about it."""

    exchange: Exchange
    problem: str = ""  # one line, where it is no answer
    again: bool = False  # the same request may go well later
    wait: float = 0.0  # seconds that the server asks for before that
    hopeless: bool = False  # no request to this endpoint would go well


@dataclass
class Endpoint:
    """`POST {address}/chat/completions`. Used by many threads."""

    address: str  # with the version, e.g. `http://host:8000/v1`
    api_key: str = field(default="", repr=False)  # sent as a bearer token where given, never kept
    timeout: float = 120.0  # seconds of a request, in all
    connections: int = 8

    def __post_init__(self) -> None:
        import httpx  # every recipe looks for captioners

        self.url = self.address.rstrip("/") + "/chat/completions"
        try:
            url = httpx.URL(self.url)
        except (httpx.InvalidURL, TypeError) as error:
            raise RecipeError(f"caption.endpoint '{self.address}': {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise RecipeError(
                f"caption.endpoint '{self.address}' is no http:// or https:// address"
            )
        self.api_key = self.api_key.strip()
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise RecipeError("the key of the chat endpoint has characters that no key has")
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        limits = httpx.Limits(max_connections=self.connections)
        self._client = httpx.Client(headers=headers, timeout=self.timeout, limits=limits)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def post(self, body: dict[str, Any]) -> Reply:
        """Send one request. Whatever comes back, or does not, is a reply."""
        import httpx

        try:
            status, text, headers = self._receive(json.dumps(body).encode())
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Reply(Exchange("unreached"), f"no connection ({error})", again=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
            return Reply(Exchange("lost"), f"no whole reply ({why})", again=True)
        return sort_reply(status, text, headers.get("retry-after", ""))

    def _receive(self, body: bytes) -> tuple[int, str, httpx.Headers]:
        """Status, text and headers. The time counts in all, not from byte to byte."""
        import httpx

        deadline = time.monotonic() + self.timeout
        parts, size = [], 0
        with self._client.stream("POST", self.url, content=body) as response:
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"not done after {self.timeout:g} s")
                if size > _LARGEST:
                    raise httpx.ReadError(f"more than {_LARGEST >> 20} MiB")
        text = b"".join(parts).decode(errors="replace")
        if len(self.api_key) >= _SECRET:  # some servers quote it
            text = text.replace(self.api_key, "(key)")
        return response.status_code, text, response.headers


def sort_reply(status: int, text: str, retry_after: str = "") -> Reply:
    """What kind of reply an HTTP status and body are."""
    if status == 200:
        return _success(text)
    line = f"HTTP {status}{_reason(text)}"
    exchange = Exchange("error", status, text)
    if 400 <= status < 500 and status not in _PASSING and _FILTERED.search(text):
        return Reply(Exchange("filtered", status, text), line)
    if status in _HOPELESS or status < 400 or _NO_MONEY in text:
        return Reply(exchange, line, hopeless=True)
    again = status in _PASSING or status >= 500
    return Reply(exchange, line, again=again, wait=seconds_of(retry_after) if again else 0.0)


def _success(text: str) -> Reply:
    found = completion(text)
    if found is None:
        if '"error"' in text and _FILTERED.search(text):
            return Reply(Exchange("filtered", 200, text))
        problem = "HTTP 200, but the reply is no chat completion"
        return Reply(Exchange("garbled", 200, text), problem, again=True)
    usage = found.tokens()
    cost = Cost(usage.prompt_tokens, usage.completion_tokens) if usage else None
    return Reply(Exchange("answered", 200, text, found.model or "", cost))


def seconds_of(retry_after: str) -> float:
    """Seconds that a `Retry-After` header asks for, as a number or a date; 0 for neither."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except (ValueError, TypeError, OverflowError):
            return 0.0
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _reason(text: str) -> str:
    """The server's words in an error's body, in parentheses; empty where there are none."""
    try:
        error = json.loads(text)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f" ({' '.join(str(message).split())[:200]})" if message else ""
