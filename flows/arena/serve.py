"""Opens an arena of a home and serves it until it is stopped."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from flows.arena.web import create_app
from flows.server.password import is_loopback
from kontext.errors import KontextError

if TYPE_CHECKING:
    from kontext.evaluate.arena.asking import Arena

PORT = 4300
_KEY = "arena.key"


def home_key(home: Path) -> bytes:
    """The home's secret, made once: with it a page that is open outlives a restart."""
    path = home / _KEY
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    key = path.read_bytes()
    if len(key) != 32:
        raise KontextError(f"{path} is damaged: delete it, and raters reload the page")
    return key


def serve(
    arena: Arena, key: bytes, host: str, port: int | None, said: Callable[[str], None]
) -> None:
    """Serve until Ctrl-C or SIGTERM; `said` is called with the page's address.

    An address that other machines reach has a secret path: who has the link may vote.

    Raises KontextError where the port is taken.
    """
    open_to_all = not is_loopback(host)
    invitation = (
        hmac.new(key, b"invitation", hashlib.sha256).hexdigest()[:24] if open_to_all else ""
    )
    with closing(_listen(host, port)) as listener:
        number = listener.getsockname()[1]
        app = create_app(arena, host, number, invitation)
        name = socket.gethostname() if host in ("0.0.0.0", "::") else host
        shown = f"[{name}]" if ":" in name else name
        said(f"http://{shown}:{number}/{invitation}{'/' if invitation else ''}")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's own raises the signal again when it has stopped: votes would not be entered."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on Ctrl-C and SIGTERM."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket on the port; on a free one where none is asked for and the usual one is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last: OSError | None = None
    for number in (PORT, 0) if port is None else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), number))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            last = error
    assert last is not None
    where = f"{host}:{PORT if port is None else port}"
    raise KontextError(f"cannot listen on {where}: {last.strerror}") from last
