"""Who may use the server: one password per home, Prefect's basic-auth string.

`kontext up` makes it on the first start and keeps it in KONTEXT_HOME/prefect/password (0600). A
PREFECT_SERVER_API_AUTH_STRING of the user's own wins; an empty one means that there is no password,
which only a server on a loopback address may have.
"""

import base64
import ipaddress
import os
import secrets
from pathlib import Path
from urllib.parse import quote

from kontext.errors import KontextError
from tasks.workspace import Places

LOGIN = "/login"  # the page of flows.server.login
NAMES = "KONTEXT_SERVER_NAMES"  # of a reverse proxy, say: `pairs.example.org,box:8000`
SERVER, CLIENT = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"


def kept(at: Places) -> str | None:
    """The password of this home's server; empty where it asks for none, None before any start."""
    try:
        return _file(at).read_text()
    except FileNotFoundError:
        return None


def wanted(at: Places, alive: bool) -> str:
    """The password that the server shall have: the user's own, the one kept, or a new one.

    That a server has none is remembered only while it is `alive`.
    """
    given, found = os.environ.get(SERVER), kept(at)
    if given is not None:
        return given
    return found if found or (alive and found is not None) else f"kontext:{secrets.token_hex(24)}"


def keep(at: Places, password: str) -> None:
    """Write the password down for workers, runs and commands to come."""
    at.prefect.mkdir(parents=True, exist_ok=True)
    path = _file(at)
    path.touch(0o600)
    path.chmod(0o600)
    path.write_text(password)


def require(host: str, password: str) -> None:
    """Raises KontextError for a server that other machines reach and that asks for nothing."""
    if not password and not is_loopback(host):
        raise KontextError(
            f"a server on {host} needs a password: unset the empty {SERVER}, and one is made"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def basic(password: str) -> str:
    """The Authorization header that carries the password."""
    return f"Basic {base64.b64encode(password.encode()).decode()}"


def login_url(server: str, password: str) -> str:
    """The address that logs a browser in: what follows # stays in the browser."""
    return f"{server}{LOGIN}#{quote(password, safe=':')}"


def _file(at: Places) -> Path:
    return at.prefect / "password"
