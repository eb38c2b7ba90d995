"""Every route of the server's app: who is turned away, without a server started."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.server.api.server import API_ROUTERS
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_API_AUTH_STRING,
    PREFECT_SERVER_API_HOST,
    PREFECT_SERVER_API_PORT,
    temporary_settings,
)
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from flows.server.guard import Guard
from flows.server.password import NAMES, basic
from flows.server.web import create_app
from kontext.errors import KontextError
from tasks.report import REPORT_URL

PASSWORD = "kontext:secret"
OURS, FOREIGN = "http://127.0.0.1:4200", "http://127.0.0.1:9999"
KNOWN = {"authorization": basic(PASSWORD)}
OPEN = {"/api/health", "/api/ready"}  # say nothing but that the server is up


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("guard")
    (home / "report" / "f00").mkdir(parents=True)
    (home / "report" / "f00" / "index.html").write_text("<h1>held-out edits</h1>")
    return home


@pytest.fixture(scope="module")
def app(home: Path) -> Iterator[Guard]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KONTEXT_HOME", str(home))
        patch.setenv(REPORT_URL, "/report")
        settings = {
            PREFECT_SERVER_API_AUTH_STRING: PASSWORD,
            PREFECT_SERVER_API_HOST: "127.0.0.1",
            PREFECT_SERVER_API_PORT: 4200,
            PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{home}/prefect.db",
        }
        with temporary_settings(settings):
            yield create_app()


@pytest.fixture
def client(app: Guard) -> TestClient:
    return TestClient(app, OURS, raise_server_exceptions=False, follow_redirects=False)


def routes(app: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of all routes, also of what is mounted or included; WS for websockets."""
    for route in app.routes:
        path = prefix + getattr(route, "path", "").replace(":path", "")
        if inside := getattr(route, "original_router", None):
            yield from routes(inside, prefix)
        elif isinstance(route, Mount):
            yield from routes(route, path) if route.routes else iter([("GET", f"{path}/x")])
        else:
            yield from ((method, path) for method in getattr(route, "methods", None) or {"WS"})
    yield "GET", f"{prefix}/no/such/route"


def test_the_list_of_routes_is_whole(app: Guard) -> None:
    found = set(routes(app.app))
    assert {("POST", "/login"), ("GET", "/report/x"), ("GET", "/docs")} <= found
    expected = {f"/api{route.path}" for router in API_ROUTERS for route in router.routes}  # type: ignore[attr-defined]
    assert expected <= {path for _, path in found} and len(expected) > 100
    assert sum(method == "WS" for method, _ in found) >= 5


@pytest.mark.parametrize(
    ("headers", "status"), [({"host": "evil.example:4200"}, 421), ({"origin": FOREIGN}, 403)]
)
def test_every_route_refuses_what_another_page_sends(
    app: Guard, client: TestClient, headers: dict[str, str], status: int
) -> None:
    """Also with the right password."""
    for method, path in routes(app.app):
        sent = {**KNOWN, **headers}
        if method == "WS":
            with pytest.raises(WebSocketDisconnect), client.websocket_connect(path, headers=sent):
                pass
            continue
        answer = client.request(method, path, headers=sent)
        assert answer.status_code == status, (method, path)
        assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {**headers, "access-control-request-method": "POST"}
    assert client.options("/api/flow_runs/", headers=preflight).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1:4200.evil.example"}, 421),
        ({"host": "x@127.0.0.1:4200"}, 421),
        ({"host": "127.0.0.1:9999"}, 421),
        ({"host": "192.168.7.7:4200"}, 421),
        ({"host": ""}, 421),
        ({"host": "["}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://localhost:4200"}, 403),  # of this server, but not of this page
        ({"origin": "null"}, 403),
        ({"origin": "file://127.0.0.1:4200"}, 403),
        ({"origin": "http://["}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
          "sec-fetch-dest": "iframe"}, 403),
    ],
)  # fmt: skip
def test_what_is_no_page_of_this_server(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    assert client.get("/api/health", headers=headers).status_code == status
    knock = client.websocket_connect("/api/events/out", headers={**KNOWN, **headers})
    with pytest.raises(WebSocketDisconnect), knock:
        pass


def test_every_route_of_the_api_and_the_reports_want_the_password(
    app: Guard, client: TestClient
) -> None:
    wrong: list[dict[str, str]] = [{}, {"authorization": basic("kontext:wrong")}]
    for method, path in routes(app.app):
        if not path.startswith(("/api/", "/report")) or path in OPEN:
            continue
        for headers in wrong:
            if method == "WS":
                knock = client.websocket_connect(path, ["prefect"], headers=headers)
                with pytest.raises(WebSocketDisconnect), knock as socket:
                    socket.send_json({"type": "auth", "token": "kontext:wrong"})
                    while True:
                        assert socket.receive_json()["type"] != "auth_success", path
                continue
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize(
    "name", ["127.0.0.1:4200", "localhost:4200", "LOCALHOST:4200", "[::1]:4200"]
)
def test_the_ui_is_answered_under_each_name_of_loopback(client: TestClient, name: str) -> None:
    page = {"host": name, "origin": f"http://{name.lower()}", "sec-fetch-site": "same-origin"}
    assert client.get("/ui-settings", headers=page).json()["api_url"]
    assert client.get("/api/admin/version", headers={**page, **KNOWN}).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
            "sec-fetch-dest": "document"}  # fmt: skip
    assert "<html" in client.get("/v2/", headers={"host": name, **link}).text


def test_elsewhere_its_names_are_addresses_the_machines_and_those_of_the_proxy(
    app: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAMES, "Pairs.example.org, box:8000")
    monkeypatch.setattr("socket.gethostname", lambda: "worker-7")
    client = TestClient(Guard(app.app, "0.0.0.0", 4200))
    good = ("10.0.0.5:4200", "[fe80::1]:4200", "worker-7:4200", "localhost:8080", "box:8000")
    for name in (*good, "pairs.example.org", "pairs.example.org:8443"):
        own = {"host": name, "origin": f"https://{name}"}
        assert client.get("/ui-settings", headers=own).status_code == 200, name
    for name in ("evil.example:4200", "box:9", "10.0.0.5.evil.example", "x.pairs.example.org"):
        assert client.get("/ui-settings", headers={"host": name}).status_code == 421, name


def test_a_login_opens_the_reports_by_plain_links(client: TestClient) -> None:
    page = "/report/f00/index.html"
    assert client.get(page).headers["www-authenticate"].startswith("Basic ")
    assert client.get(page, headers=KNOWN).text == "<h1>held-out edits</h1>"
    asked = client.get(page, headers={"accept": "text/html,*/*"})
    assert asked.status_code == 401 and "prefect-password" in asked.text
    assert "www-authenticate" not in asked.headers  # else the browser asks before the page does
    assert client.post("/login", headers={"authorization": basic("kontext:no")}).status_code == 401
    answer = client.post("/login", headers=KNOWN)
    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 204 and "secret" not in cookie
    assert "httponly" in cookie.lower() and "samesite=strict" in cookie.lower()
    assert client.get(page).text == "<h1>held-out edits</h1>"
    assert client.get("/report/f00/").text == "<h1>held-out edits</h1>"
    assert client.get("/report/none/").status_code == 404
    assert client.get("/api/admin/version").status_code == 401  # the cookie opens nothing else
    client.cookies.set("kontext-4200", "0" * 64, domain="127.0.0.1", path="/report")
    assert TestClient(client.app, OURS).get(page).status_code == 401


@pytest.mark.parametrize("password", ["", None])
def test_without_a_password_it_serves_loopback_only(
    home: Path, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(home))
    monkeypatch.setenv(REPORT_URL, "/report")
    none = {PREFECT_SERVER_API_AUTH_STRING: password, PREFECT_SERVER_API_PORT: 4200}
    with temporary_settings({**none, PREFECT_SERVER_API_HOST: "127.0.0.1"}):
        client = TestClient(create_app(), OURS, follow_redirects=False)
        assert client.get("/report/f00/").status_code == 200
        assert client.get("/login").headers["location"] == "/v2"
    for host in ("0.0.0.0", "::", "192.168.1.2", "pairs.example.org"):
        refused = pytest.raises(KontextError, match=f"a server on {host} needs a password")
        with temporary_settings({**none, PREFECT_SERVER_API_HOST: host}), refused:
            create_app()
