"""The cases through a real Prefect server: its processes are killed, runs are cancelled."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.names import deployment_name
from flows.server.api import Api
from flows.server.processes import Running, start_time
from tests.faults.cases import Case
from tests.faults.lab import RECIPE, Lab, Trouble, check, environment, tail

UNTIL = "mine"
PATIENCE = 300.0


class Server:
    """One home with a server for all cases; each starts with an empty store."""

    home: Path | None = None


def close_server() -> None:
    """Stop it, if a case has started it."""
    if Server.home is not None:
        _kontext(Server.home, "down")


def _kontext(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = environment(home)
    command = [sys.executable, "-m", "flows.cli", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def _up(lab: Lab) -> tuple[Path, Running, Api]:
    """The home with everything up."""
    if Server.home is None:
        Server.home = lab.home_after("", "server")
    home = Server.home
    done = _kontext(home, "up")
    if done.returncode:
        raise Trouble(f"kontext up: {done.stderr.strip().splitlines()[-1:]}")
    running = Running.load(home / "prefect" / "up.json")
    password = (home / "prefect" / "password").read_text()
    return home, running, Api(running.url, patience=60, password=password)


def _options(store: str) -> dict[str, Any]:
    return {"recipe": "ci", "overrides": list(RECIPE), "until": UNTIL, "store": store}


def _submit(api: Api, store: str) -> str:
    form = {"options": _options(store)}
    return str(api.create_run(deployment_name("pipeline"), form, ["kontext", "ci"])["id"])


def _until(what: str, ready: Callable[[], Any]) -> Any:
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        found = ready()
        if found:
            return found
        time.sleep(0.3)
    raise Trouble(f"waited {PATIENCE:.0f} s for {what}")


def _running_child(api: Api, run: str) -> Any:
    return _until(
        "a running stage",
        lambda: next((c for c in api.children(run) if c["state_type"] == "RUNNING"), None),
    )


def _processes(run: str) -> list[int]:
    """Processes of one flow run: its id is in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            wanted = f"PREFECT__FLOW_RUN_ID={run}".encode()
            if wanted in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _finish(lab: Lab, home: Path, store: str) -> None:
    """`kontext run` of the same, which starts what died; then the checks."""
    sets = [part for override in RECIPE for part in ("--set", override)]
    words = ["run", "--recipe", "ci", *sets, "--until", UNTIL, "--store", store, "--quiet"]
    done = _kontext(home, *words)
    if done.returncode:
        raise Trouble(f"the same command failed: {tail(done)}")
    check(lab, home, UNTIL, store)
    *_, api = _up(lab)
    unfinished = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    _until("every run to be final", lambda: not api.runs(unfinished))


def _ended(api: Api, run: str) -> Any:
    found = api.run(run)
    return found if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def case(name: str, fault: Callable[[Running, Api, str], None], group: str = "Prefect") -> Case:
    """Submit, wait until a stage runs, do the fault, submit the same again."""

    def body(lab: Lab) -> None:
        home, running, api = _up(lab)
        shutil.rmtree(home / "store", ignore_errors=True)
        for file in home.glob("catalog.sqlite*"):  # a catalog belongs to one store
            file.unlink()
        store = f"file://{home}/store"
        run = _submit(api, store)
        fault(running, api, run)
        _finish(lab, home, store)

    return Case(group, name, body)


def kill_server(running: Running, api: Api, run: str) -> None:
    _running_child(api, run)
    os.kill(running.server.pid, signal.SIGKILL)


def kill_worker(running: Running, api: Api, run: str) -> None:
    _running_child(api, run)
    os.kill(running.workers["cpu"].pid, signal.SIGKILL)


def kill_stage(running: Running, api: Api, run: str) -> None:
    child = _running_child(api, run)
    _kill(_until("the stage's process", lambda: _processes(child["id"])))
    _until("the pipeline to end", lambda: _ended(api, run))


def kill_pipeline(running: Running, api: Api, run: str) -> None:
    _running_child(api, run)
    _kill(_until("the pipeline's process", lambda: _processes(run)))


def kill_everything(running: Running, api: Api, run: str) -> None:
    child = _running_child(api, run)
    _kill([running.server.pid, *(worker.pid for worker in running.workers.values())])
    _kill(_processes(run) + _processes(child["id"]))


def cancel(running: Running, api: Api, run: str) -> None:
    """Cancel as the UI does; the stage and its process must end."""
    child = _running_child(api, run)
    pids = _processes(child["id"])
    started = {pid: start_time(pid) for pid in pids}
    api.set_state(run, "CANCELLING", "Cancelling", "by the test")
    _until("the pipeline to be cancelled", lambda: _ended(api, run))
    _until("its stage to end", lambda: _ended(api, child["id"]))
    _until("its process to end", lambda: not any(start_time(p) == s for p, s in started.items()))


def twice(running: Running, api: Api, run: str) -> None:
    """A second pipeline of the same recipe and store while the first runs."""
    first = api.run(run)["parameters"]["options"]["store"]
    other = _submit(api, first)
    for each in (run, other):
        ended = _until("both to end", lambda each=each: _ended(api, each))
        if ended["state_type"] != "COMPLETED":
            raise Trouble(f"one of two pipelines ended {ended['state_name']}")


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


SERVER_CASES = [
    case("SIGKILL of the server", kill_server),
    case("SIGKILL of the worker", kill_worker),
    case("SIGKILL of a stage's process", kill_stage),
    case("SIGKILL of the pipeline's process", kill_pipeline),
    case("SIGKILL of server workers and runs", kill_everything),
    case("cancel while a stage runs", cancel),
    case("two pipelines of one recipe", twice, group="two at once"),
]
