"""What `kontext up` does: a Prefect server, two work pools with a worker each, all deployments.

Idempotent. What runs is found again by its saved pid and start time, what died is started again,
what changed (deployments, worker environment) is brought up to date. Everything runs detached and
logs into KONTEXT_HOME/logs; one more process, the supervisor, starts again what dies later. With
PREFECT_API_URL set, that server is used instead of our own.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.names import STOPPED
from flows.server.api import Api, ServerError
from flows.server.offered import offer_recipes
from flows.server.password import CLIENT, NAMES, SERVER, keep, kept, login_url, require, wanted
from flows.server.processes import LOOPBACK, NOBODY, Process, Running, last_error, port_lost, spawn
from flows.server.settings import (
    SERVER_SECONDS,
    child_environment,
    choose_port,
    fresh_days,
    gpu_runs,
    inherited,
    prefect_settings,
    random_port,
    write_profile,
    zombie_seconds,
)
from kontext.errors import KontextError
from kontext.store.objects import open_store
from tasks.report import REPORT_URL
from tasks.workspace import Places, make_private, places

ROOT = Path(__file__).parents[2]  # of the code
POOLS = ("cpu", "gpu")
_PORTS_TRIED = 5
Say = Callable[[str], None]


class _PortTakenError(KontextError):
    """Another program took the port between our choice and our server's start."""


@dataclass(frozen=True)
class Service:
    """One line of `kontext status`."""

    name: str
    state: str  # up, down, or external
    detail: str


def up(
    at: Places | None = None,
    port: int | None = None,
    host: str | None = None,
    say: Say = lambda _: None,
) -> Running:
    """Bring everything up and return where it is.

    Raises KontextError when the port asked for is taken or a process does not start (with its log).
    """
    at = at or places()
    make_private(at)
    with locked(at):
        running = load(at)
        for _ in range(_PORTS_TRIED - 1):
            try:
                return _up(at, running, port, host, say)
            except _PortTakenError as error:
                say(f"{error}: trying another")
        return _up(at, running, port, host, say)


def _up(at: Places, running: Running, port: int | None, host: str | None, say: Say) -> Running:
    external, started = external_url(), False
    if external:
        if not Api(external).healthy():
            raise ServerError(
                f"PREFECT_API_URL is set, but no Prefect server answers at {external}"
            )
        running.server = NOBODY
    else:
        started = _ensure_server(at, running, host, port, say)
    settings = _settings(at, running, external)
    write_profile(at, settings)
    with _registering(at, running, settings, say) as registering:
        if not external:
            _await_server(at, running, port)
    api = server_api(at, running, patience=30.0)
    if started or registering:
        api.send_heartbeats()
    if registering:
        offer_recipes(api, open_store(at.store))
    _ensure_workers(at, running, settings, say)
    _ensure_supervisor(at, running)
    return running


def down(at: Places | None = None, say: Say = lambda _: None) -> bool:
    """Stop workers and server; runs in flight are marked Crashed. False if nothing was up."""
    at = at or places()
    with locked(at):
        running = load(at)
        workers = {n: w for n, w in running.workers.items() if w.alive}
        server_up = running.server.alive
        running.supervisor.stop()  # first: it would start again what ends now
        for name, worker in workers.items():
            say(f"stopping worker {name}")
            worker.stop()
        if server_up:
            api = Api(running.url, password=kept(at) or "")
            # a worker's SIGTERM kills its runs but leaves them Running for ever (prefect #16746)
            for run in _unfinished(api) if api.healthy() else ():
                api.set_state(run["id"], "CRASHED", "Crashed", STOPPED, force=True)
            say("stopping server")
            running.server.stop()
        running.server = running.supervisor = NOBODY
        running.workers, running.environment = {}, {}
        running.host, running.names = LOOPBACK, ""  # only who asks for others again gets them
        running.save(_state(at))
        return bool(workers) or server_up


def status(at: Places | None = None) -> list[Service]:
    """Server, workers and their logs."""
    at = at or places()
    running = load(at)
    external, healthy = external_url(), connect(at) is not None
    detail = external or (f"{running.url}/v2" if healthy else f"see {_log(at, 'server')}")
    state = ("external" if external else "up") if healthy else "down"
    found = [Service("server", state, detail)]
    for pool in POOLS:
        worker = running.workers.get(pool, NOBODY)
        found.append(_service(at, f"worker {pool}", worker))
    return [*found, _service(at, "supervisor", running.supervisor)]


def _service(at: Places, name: str, process: Process) -> Service:
    log = _log(at, name.replace(" ", "-"))
    if process.alive:
        return Service(name, "up", f"pid {process.pid}")
    return Service(name, "down", f"see {log}")


def connect(at: Places | None = None) -> Api | None:
    """The server's API if one is up."""
    at = at or places()
    api = server_api(at, load(at))
    return api if api.healthy() else None


def server_api(at: Places, running: Running, patience: float = 0.0) -> Api:
    """The API of the server in use, with its password."""
    return Api(server_url(running), patience, None if external_url() else kept(at) or "")


def external_url() -> str:
    """Address of a server that is not ours (PREFECT_API_URL), without `/api`; empty if none."""
    return os.environ.get("PREFECT_API_URL", "").rstrip("/").removesuffix("/api")


def server_url(running: Running) -> str:
    """Address of the server in use, without `/api`."""
    return external_url() or running.url


def _state(at: Places) -> Path:
    return at.prefect / "up.json"


def _log(at: Places, name: str) -> Path:
    return at.home / "logs" / f"{name}.log"


def _settings(at: Places, running: Running, external: str) -> dict[str, str]:
    settings = prefect_settings(at, running.host, running.port)
    if external:
        settings["PREFECT_API_URL"] = f"{external}/api"
        settings[REPORT_URL] = ""
        for name in (SERVER, CLIENT):
            settings.pop(name, None)
        if password := os.environ.get(CLIENT):
            settings[CLIENT] = password
    return settings


def load(at: Places) -> Running:
    """What was started here, as it was last written down."""
    return Running.load(_state(at))


@contextlib.contextmanager
def locked(at: Places) -> Iterator[None]:
    """Only one `up` or `down` of a home at a time."""
    path = at.prefect / "up.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- server ------------------------------------------------------------------------------------


def _ensure_server(
    at: Places, running: Running, host: str | None, port: int | None, say: Say
) -> bool:
    """Whether it had to be started."""
    alive, password = running.server.alive, wanted(at, running.server.alive)
    for what, asked, now in (("port", port, running.port), ("address", host, running.host)):
        if alive and asked not in (None, now):
            raise KontextError(f"the server is up on {what} {now}; `kontext down` first")
    host, names = host or running.host, os.environ.get(NAMES, running.names)
    require(host, password)
    changed = "password" if password != kept(at) else "names" if names != running.names else ""
    if alive and not changed and _answers(at, running, 30.0):
        return False
    if alive and changed == "password" and _unfinished(Api(running.url, password=kept(at) or "")):
        raise KontextError("runs are in flight: change the password after `kontext down`")
    if running.server != NOBODY:
        why = f"the server's {changed} changed" if changed else "the server is not answering"
        say(f"{why if alive else 'the server had died'}: starting it again")
        running.server.stop()
    keep(at, password)
    running.host, running.names = host, names
    running.port = choose_port(host, port or running.port or None, port is not None, say)
    say(f"starting the Prefect server on {running.url}")
    _start_server(at, running)
    return True


def _start_server(at: Places, running: Running) -> None:
    env = child_environment(at, prefect_settings(at, running.host, running.port))
    command, log = _server_command(running), _log(at, "server")
    running.server = spawn(command, {**env, NAMES: running.names}, log, umask=0o077)
    running.save(_state(at))


def _await_server(at: Places, running: Running, port: int | None) -> None:
    if _answers(at, running, SERVER_SECONDS):
        return
    ended, log = not running.server.alive, _log(at, "server")
    running.server.stop()
    if ended and port is None and port_lost(running.host, running.port, log):
        # at random: the next free port may be every other loser's choice too
        lost, running.server, running.port = running.port, NOBODY, random_port()
        raise _PortTakenError(f"port {lost} was taken by another program meanwhile")
    raise KontextError(f"the Prefect server did not start: {last_error(log)}")


def _server_command(running: Running) -> list[str]:
    """Uvicorn on Prefect's app and ours: `prefect server start` without its second process."""
    app = "flows.server.web:create_app"
    options = ["--host", running.host, "--port", str(running.port), "--timeout-keep-alive", "5"]
    return [sys.executable, "-m", "uvicorn", "--factory", app, *options]


def _answers(at: Places, running: Running, seconds: float) -> bool:
    """Whether our server answers, and not one of another home that has the port and admits us."""
    api = Api(running.url, password=kept(at) or "")
    limit = time.monotonic() + seconds
    while running.server.alive and time.monotonic() < limit:
        if api.healthy() and api.admits() and running.server.listens(running.port):
            return True
        time.sleep(0.1)
    return False


# --- deployments and workers -------------------------------------------------------------------


@contextlib.contextmanager
def _registering(
    at: Places, running: Running, settings: dict[str, str], say: Say
) -> Iterator[bool]:
    """Run `flows.server.register` where something changed, and say whether it did.

    It imports while the block waits for the server, and asks nothing of it before the block's end:
    until then a server of another home may have the port, and refuse our password.
    """
    wanted = _deployed_fingerprint(settings)
    if running.deployed == wanted:
        yield False
        return
    say("registering pools, deployments and the zombie automation")
    command, env = [sys.executable, "-m", "flows.server.register"], child_environment(at, settings)
    _log(at, "register").parent.mkdir(parents=True, exist_ok=True)
    _log(at, "register").touch(0o600)
    with _log(at, "register").open("wb") as log:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield True
        process.communicate(b"go\n")
        if process.returncode:
            why = last_error(_log(at, "register"))
            raise KontextError(f"the deployments were not registered: {why}")
    finally:
        process.kill()
    running.deployed = wanted
    running.save(_state(at))


def _deployed_fingerprint(settings: dict[str, str]) -> str:
    """Digest of all that decides what is registered: code, folder, server, its data, limits."""
    code = [ROOT / "flows", ROOT / "schemas", ROOT / "kontext" / "stages"]
    hasher = hashlib.sha256(importlib.metadata.version("prefect").encode())
    names = ("PREFECT_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL", REPORT_URL)
    limits = (gpu_runs(), fresh_days(), zombie_seconds())
    for value in (Path.cwd(), sys.executable, *(settings[name] for name in names), *limits):
        hasher.update(str(value).encode())
    for file in sorted(file for folder in code for file in folder.rglob("*.py")):
        hasher.update(file.read_bytes())
    return hasher.hexdigest()[:16]


def _ensure_workers(at: Places, running: Running, settings: dict[str, str], say: Say) -> None:
    cwd = Path.cwd()
    wanted, known = inherited(at, settings, cwd), running.environment
    workers = running.workers
    changed = sorted(name for name, _ in wanted.items() ^ known.items())
    stale = bool(changed) and any(w.alive for w in workers.values())
    what = f"the environment changed ({', '.join(dict.fromkeys(changed))})"
    if stale and _unfinished(server_api(at, running)):
        say(f"{what}, but runs are in flight: the workers keep the old one")
    elif stale:
        say(f"{what}: restarting the workers")
        for worker in workers.values():
            worker.stop()
    missing = [pool for pool in POOLS if not workers.get(pool, NOBODY).alive]
    for pool in missing:
        say(f"starting worker {pool}")
        workers[pool] = _start_worker(at, pool, settings, cwd)
    if missing:
        if changed:
            running.supervisor.stop()  # it has the old environment
        running.environment = wanted
        running.save(_state(at))
        _require_workers(at, workers)


def _start_worker(at: Places, pool: str, settings: dict[str, str], cwd: Path) -> Process:
    env = child_environment(at, settings)
    paths = [str(ROOT), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool]
    command += ["--type", "process", "--name", f"kontext-{pool}", "--limit", "8"]
    return spawn(command, env, _log(at, f"worker-{pool}"), cwd)


def _require_workers(at: Places, workers: dict[str, Process]) -> None:
    """Workers fail within half a second of a bad command line; anything later shows in status."""
    time.sleep(0.3)
    for pool, worker in workers.items():
        if not worker.alive:
            log = _log(at, f"worker-{pool}")
            raise KontextError(f"the {pool} worker did not start: {last_error(log)}")


def _ensure_supervisor(at: Places, running: Running) -> None:
    """Leave a process that does the same as this `up` where something dies."""
    if running.supervisor.alive:
        return
    names = {"KONTEXT_HOME": str(at.home), "KONTEXT_STORE": at.store, "KONTEXT_CATALOG": at.catalog}
    command = [sys.executable, "-m", "flows.server.supervise"]
    running.supervisor = spawn(command, {**os.environ, **names}, _log(at, "supervisor"), Path.cwd())
    running.save(_state(at))


def _unfinished(api: Api) -> list[Any]:
    return api.runs({"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}})


def describe(at: Places, running: Running) -> dict[str, Any]:
    """What `kontext up --json` prints; `login` opens the UI without asking for the password."""
    ui, password = f"{server_url(running)}/v2", "" if external_url() else kept(at)
    return {
        "ui": ui,
        "login": login_url(running.url, password) if password else ui,
        "api": f"{server_url(running)}/api",
        "external": bool(external_url()),
        "workers": {name: worker.pid for name, worker in running.workers.items()},
    }
