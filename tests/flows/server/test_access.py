"""A real server on SQLite, as `kontext up` starts it: its password, its files, its doors."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from flows.server import password, serve
from flows.server.api import Api, ServerError
from flows.server.password import CLIENT, NAMES, SERVER, basic
from flows.server.processes import Process, start_time
from kontext.errors import KontextError
from tasks.events import REFRESH_FINISHED
from tasks.workspace import Places, places

pytestmark = pytest.mark.prefect
ensure_workers, ensure_supervisor = serve._ensure_workers, serve._ensure_supervisor


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """The server alone: no registrations, no workers."""
    home = tmp_path_factory.mktemp("access") / "home"
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith(("KONTEXT_", "PREFECT_"))]:
            patch.delenv(name)
        patch.setenv("KONTEXT_HOME", str(home))
        patch.setattr(serve, "_ensure_workers", lambda *_: None)
        patch.setattr(serve, "_ensure_supervisor", lambda *_: None)
        patch.setattr(serve, "_registering", lambda *_: nullcontext(False))
        found = places()
        serve.up(found)
        yield found
        serve.down(found)


@pytest.fixture
def running(at: Places) -> serve.Running:
    return serve.Running.load(serve._state(at))


def test_the_password_is_made_once_and_kept_for_the_user_only(
    at: Places, running: serve.Running
) -> None:
    file = at.prefect / "password"
    made = file.read_text()
    assert made.startswith("kontext:") and len(made) > 40
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert serve.up(at).server == running.server and file.read_text() == made
    where = serve.describe(at, running)
    assert where["login"] == f"{running.url}/login#{made}"
    assert made not in where["ui"]


def test_the_home_is_for_its_user_only(at: Places) -> None:
    assert stat.S_IMODE(at.home.stat().st_mode) == 0o700
    files = [f for f in (*at.prefect.rglob("*"), *(at.home / "logs").glob("*")) if f.is_file()]
    assert {"prefect.db", "up.json", "env", "server.log", "password"} <= {f.name for f in files}
    assert not [file for file in files if file.stat().st_mode & 0o077]


def test_the_command_line_and_a_sourced_shell_know_it(at: Places, running: serve.Running) -> None:
    api = serve.connect(at)
    assert api is not None and api.runs({}) == []
    settings = serve._settings(at, running, "")
    serve.write_profile(at, settings)
    ask = 'curl -sfu "$PREFECT_API_AUTH_STRING" "$PREFECT_API_URL/admin/version"'
    shell = ["sh", "-c", f". '{at.prefect}/env'; {ask}"]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)
    with pytest.raises(ServerError, match="wants another password"):
        Api(running.url, password="kontext:wrong").runs({})


def test_prefects_own_client_and_events_get_in(at: Places, running: serve.Running) -> None:
    """What workers and runs use: HTTP, and a websocket."""
    code = (
        "from prefect import get_client; from tasks import events\n"
        "with get_client(sync_client=True) as client: print(client.hello().status_code)\n"
        "events.refresh_finished('demo')"
    )
    env = serve.child_environment(at, serve._settings(at, running, ""))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "200", done.stderr
    api = serve.connect(at)
    assert api is not None
    wanted = {"filter": {"event": {"name": [REFRESH_FINISHED]}}}
    found: list[object] = []
    for _ in range(200):
        if found := api.call("POST", "/events/filter", wanted)["events"]:
            break
        time.sleep(0.1)
    assert len(found) == 1


def test_a_schedule_makes_runs(at: Places) -> None:
    """What failed without a word under SQLAlchemy 2.1 before Prefect 3.9."""
    api = serve.connect(at)
    assert api is not None
    flow = api.call("POST", "/flows/", {"name": "toy"})
    schedule = {"schedule": {"interval": 3600}, "active": True}
    toy = {"name": "toy", "flow_id": flow["id"], "schedules": [schedule]}
    deployment = api.call("POST", "/deployments/", toy)
    limit, planned = time.monotonic() + 120, list[Any]()
    while not planned and time.monotonic() < limit:
        planned = api.runs({"deployment_id": {"any_": [deployment["id"]]}})
        time.sleep(0.2)
    assert planned and all(run["auto_scheduled"] for run in planned)
    api.call("DELETE", f"/deployments/{deployment['id']}")


def test_an_external_server_is_given_the_users_password(
    at: Places, running: serve.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = password.kept(at)
    monkeypatch.setenv("PREFECT_API_URL", f"{running.url}/api")
    monkeypatch.setenv(CLIENT, str(made))
    other = Places(at.home / "other", at.store, at.catalog)
    assert serve.server_api(other, serve.Running()).runs({}) == []
    assert serve._settings(other, serve.Running(), running.url)[CLIENT] == made
    monkeypatch.setenv(CLIENT, "kontext:wrong")
    with pytest.raises(ServerError, match="wants another password"):
        serve.server_api(other, serve.Running()).runs({})


def test_other_pages_are_refused_by_the_server_itself(at: Places, running: serve.Running) -> None:
    """The routes one by one are in test_guard.py; here uvicorn is before them."""
    known = {"authorization": basic(str(password.kept(at)))}
    for headers, status in (({"host": "evil.example"}, 421), ({"origin": "http://x.example"}, 403)):
        for path in ("/", "/v2/", "/report/latest/", "/docs", "/api/health", "/login"):
            answer = httpx.get(f"{running.url}{path}", headers={**known, **headers})
            assert answer.status_code == status, path
    answer = httpx.post(f"{running.url}/api/flows/", json={"name": "x"})
    assert answer.status_code == 401

    async def knock(origin: str) -> None:
        url = f"ws://127.0.0.1:{running.port}/api/events/out"
        async with websockets.connect(url, origin=origin, subprotocols=["prefect"]):  # type: ignore[arg-type, list-item]
            pass

    asyncio.run(knock(running.url))
    with pytest.raises(websockets.InvalidStatus, match="403"):
        asyncio.run(knock("http://127.0.0.1:9999"))


def test_another_address_or_port_is_not_ignored(at: Places, running: serve.Running) -> None:
    for wrong in ({"port": running.port + 1}, {"host": "0.0.0.0"}):
        with pytest.raises(KontextError, match="`kontext down` first"):
            serve.up(at, **wrong)  # type: ignore[arg-type]


def test_the_server_of_another_home_on_our_port_is_not_ours(
    at: Places, running: serve.Running, tmp_path: Path
) -> None:
    """As when two start at once: ours is about to end, because the port is taken."""
    other = replace(at, home=tmp_path)
    password.keep(other, "kontext:other")
    ours = replace(running, server=Process(os.getpid(), start_time(os.getpid())))
    assert serve._answers(at, running, 3.0)
    assert not serve._answers(other, running, 0.5)  # it refuses our password
    assert not serve._answers(at, ours, 0.5)  # it takes it, and is another process all the same


def test_a_password_and_names_of_ones_own_win_and_stay(
    at: Places, running: serve.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the last tests with this server: it is started anew."""
    monkeypatch.setenv(SERVER, "me:mine %1")
    said: list[str] = []
    again = serve.up(at, say=said.append)
    assert again.server != running.server
    assert any("password changed" in line for line in said)
    monkeypatch.setenv(NAMES, "pairs.example.org")
    again = serve.up(at, say=said.append)
    assert any("names changed" in line for line in said)
    own = {"host": "pairs.example.org"}
    assert httpx.get(f"{again.url}/api/health", headers=own).status_code == 200
    monkeypatch.delenv(SERVER)
    monkeypatch.delenv(NAMES)
    assert serve.up(at).server == again.server  # another shell, without the variable
    api = serve.connect(at)
    assert api is not None and api.runs({}) == []
    assert serve.describe(at, again)["login"].endswith("/login#me:mine%20%251")


def test_a_worker_that_dies_is_started_again_until_all_goes_down(
    at: Places, running: serve.Running
) -> None:
    settings = serve._settings(at, running, "")
    running.deployed = serve._deployed_fingerprint(settings)
    ensure_workers(at, running, settings, print)
    ensure_supervisor(at, running)
    killed = running.workers["gpu"]
    os.kill(killed.pid, signal.SIGKILL)
    limit = time.monotonic() + 120
    while (now := serve.load(at)).workers["gpu"] == killed or not now.workers["gpu"].alive:
        assert time.monotonic() < limit, "nobody started the worker again"
        time.sleep(0.2)
    assert (now.server, now.workers["cpu"]) == (running.server, running.workers["cpu"])
    assert "died: gpu" in (at.home / "logs" / "supervisor.log").read_text()
    assert {service.state for service in serve.status(at)} == {"up"}
    assert serve.down(at)
    processes = (now.server, now.supervisor, *now.workers.values())
    assert not any(process.alive for process in processes)


def test_no_password_is_for_loopback_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = Places(tmp_path / "home", f"file://{tmp_path}/store", "")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv(SERVER, "")
    for host in ("0.0.0.0", "::", "10.0.0.5", "pairs.example.org"):
        with pytest.raises(KontextError, match=f"a server on {host} needs a password") as refused:
            serve.up(at, host=host)
        assert "\n" not in str(refused.value)
    assert password.wanted(at, alive=False) == ""
    password.keep(at, "")
    assert SERVER not in serve._settings(at, serve.Running(), "")
    monkeypatch.delenv(SERVER)
    assert password.wanted(at, alive=True) == ""
    assert password.wanted(at, alive=False).startswith("kontext:")  # the next start makes one
