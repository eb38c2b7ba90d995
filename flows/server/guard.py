"""Stands before every route of the server and turns away what other web pages send.

A page of another site can make a browser send requests to a server on this machine: directly, from
its own origin, or under a name of its own that it points here (DNS rebinding). So the Host header
must be a name of this server, and what a browser says about the origin must be that same host.
"""

import ipaddress
import os
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.server.password import NAMES, is_loopback

_POLICY_VIOLATION = 1008  # websocket close code


class Guard:
    """`app` for requests to one of the server's own names, from its own pages or from no page.

    Args:
        host: the address that the server listens on. On a loopback address its names are those of
            loopback with `port`; elsewhere every IP address and the machine's names.
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self.app = app
        self._any_address = not is_loopback(host)
        if self._any_address:
            names = {"localhost", socket.gethostname(), socket.getfqdn()}
        else:
            names = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]", host)}
        names.update(os.environ.get(NAMES, "").replace(",", " ").split())
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with 4xx, or close the websocket before it is accepted, or pass on."""
        refused = None if scope["type"] == "lifespan" else self._refusal(scope)
        if refused is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await PlainTextResponse(refused[1], status_code=refused[0])(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts = [host.lower() for host in headers.getlist("host")]
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return 421, f"this server has no such name (another one: {NAMES})\n"
        origins = headers.getlist("origin")
        if any(_netloc(origin) != hosts[0] for origin in origins) or _from_elsewhere(scope):
            return 403, "this server answers no page of another origin\n"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if parts.netloc != host or parts.username is not None:
            return False
        shown = f"[{name}]" if ":" in name else name
        if {shown, f"{shown}:{port}"} & self._names:
            return True
        return self._any_address and _is_address(name)


def _from_elsewhere(scope: Scope) -> bool:
    """Whether a browser says that another site asks, unless a person follows a link from there."""
    headers = Headers(scope=scope)
    if headers.get("sec-fetch-site") not in ("cross-site", "same-site"):
        return False
    followed = headers.get("sec-fetch-mode") == "navigate"
    whole_page = headers.get("sec-fetch-dest") == "document"  # not a frame
    return not (followed and whole_page and scope.get("method") in ("GET", "HEAD"))


def _netloc(origin: str) -> str:
    """Host and port of an origin; empty for `null` and whatever else is no web page."""
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return ""
    return parts.netloc if parts.scheme in ("http", "https") else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
