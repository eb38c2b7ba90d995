"""`kontext up` on a real PostgreSQL: its automations fire, its report page answers."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows import after_crash
from flows.names import STOPPED, deployment_name, stage_deployment
from flows.server import serve
from flows.server.api import Api
from flows.server.automations import MEND, TRAIN, WARN
from flows.server.password import basic, kept
from flows.server.settings import child_environment
from kontext.errors import KontextError
from tasks.workspace import Places, places

pytestmark = pytest.mark.prefect
SECONDS = 120
SILENCE = "12"
TEN_SECONDS = "0.0001158"  # in days: the shortest that Prefect watches for silence


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live") / "home"


@pytest.fixture(scope="module")
def at(
    home: Path, postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Places]:
    """Server and registrations, without workers: runs that automations start stay Scheduled."""
    database = postgres_server.replace("postgres://", "postgresql+asyncpg://")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("KONTEXT_STORE", "KONTEXT_CATALOG", "PREFECT_API_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("KONTEXT_HOME", str(home))
        patch.setenv("KONTEXT_PREFECT_DB", f"{database}/postgres")
        patch.setenv("KONTEXT_FRESH_DAYS", TEN_SECONDS)
        patch.setenv("KONTEXT_ZOMBIE_SECONDS", SILENCE)
        patch.setattr(serve, "_ensure_workers", lambda *_: None)
        patch.setattr(serve, "_ensure_supervisor", lambda *_: None)
        found = places()
        serve.up(found)
        yield found
        serve.down(found)


@pytest.fixture(scope="module")
def api(at: Places) -> Api:
    found = serve.connect(at)
    assert found is not None
    return found


def emit(at: Places, call: str) -> None:
    """Call a function of tasks.events in a process of its own, as a flow run does."""
    running = serve.Running.load(serve._state(at))
    env = child_environment(at, serve._settings(at, running, ""))
    code = f"from tasks import events; events.{call}"
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def until(ready: Callable[[], Any]) -> Any:
    limit = time.monotonic() + SECONDS
    while not (found := ready()):
        assert time.monotonic() < limit, "no automation acted"
        time.sleep(0.3)
    return found


def runs(api: Api, flow: str) -> list[Any]:
    return api.runs({"deployment_id": {"any_": [api.deployment_id(deployment_name(flow))]}})


def test_prefect_lives_in_postgres(at: Places, api: Api) -> None:
    assert not list(at.prefect.glob("*.db"))
    assert api.call("GET", "/work_pools/gpu")["concurrency_limit"] == 1


def test_a_new_dataset_version_trains_where_the_refresh_was_told_to(at: Places, api: Api) -> None:
    options = {
        "recipe": "ci",
        "overrides": ["distill.seed=1", 'ingest.sources=[{"kind":"signs"}]'],
        "store": "s3://a bucket/x",
    }
    emit(at, f"dataset_committed('quiet', 1, False, {options!r})")
    emit(at, f"dataset_committed('demo', 2, True, {options!r})")
    (run,) = until(lambda: runs(api, "pipeline"))
    assert run["parameters"] == {"options": options}
    assert run["created_by"]["display_value"] == TRAIN


def test_a_failed_canary_pauses_what_is_scheduled(at: Places, api: Api) -> None:
    emit(at, "gate_failed('ingest', events.CanaryError('one of 12 was accepted'))")

    def paused() -> bool:
        names = ("refresh", "pipeline", "nightly-evaluation", "retention")
        found = [api.call("GET", f"/deployments/name/{deployment_name(n)}") for n in names]
        return all(deployment["paused"] for deployment in found)

    until(paused)
    assert not api.call("GET", f"/deployments/name/{deployment_name('backfill')}")["paused"]


def test_silence_after_a_refresh_warns(at: Places, api: Api) -> None:
    assert runs(api, "warn") == []
    emit(at, "refresh_finished('demo')")
    run = until(lambda: runs(api, "warn"))[0]
    assert run["parameters"]["message"].startswith("no data refresh has finished for 0.000")
    assert run["created_by"]["display_value"] == WARN


def test_an_artifact_is_a_trigger_for_automations_of_ones_own(at: Places, api: Api) -> None:
    """What docs/operator.md says under Events."""
    mine = {
        "name": "after each published model",
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "match": {"prefect.resource.id": "kontext://publish"},
            "expect": ["prefect.asset.materialization.succeeded"],
            "threshold": 1,
            "within": 0,
        },
        "actions": [
            {
                "type": "run-deployment",
                "source": "selected",
                "deployment_id": api.deployment_id(deployment_name("backfill")),
                "parameters": {"options": {"recipe": "ci"}},
            }
        ],
    }
    api.call("POST", "/automations/", mine)
    emit(at, "asset_made('publish', 'f00', 'ci')")
    (run,) = until(lambda: runs(api, "backfill"))
    assert run["created_by"]["display_value"] == mine["name"]


def test_the_server_shows_reports_and_the_ui_as_before(at: Places, api: Api) -> None:
    page = at.home / "report" / "f00" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<h1>held-out edits</h1>")
    known = {"authorization": basic(str(kept(at)))}
    for path in ("/report/f00/index.html", "/report/f00/"):
        assert httpx.get(f"{api.url}{path}").status_code == 401
        assert httpx.get(f"{api.url}{path}", headers=known).text == "<h1>held-out edits</h1>"
    assert httpx.get(f"{api.url}/report/none/", headers=known).status_code == 404
    assert "<html" in httpx.get(f"{api.url}/v2", follow_redirects=True).text
    assert api.healthy()


def test_a_changed_limit_is_registered_again(at: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = serve._settings(at, serve.Running(), "")
    before = serve._deployed_fingerprint(settings)
    for name, value in (
        ("KONTEXT_FRESH_DAYS", "3"),
        ("KONTEXT_GPU_RUNS", "2"),
        ("KONTEXT_ZOMBIE_SECONDS", "90"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert serve._deployed_fingerprint(settings) != before
    monkeypatch.setenv("KONTEXT_GPU_RUNS", "none")
    with pytest.raises(KontextError, match="KONTEXT_GPU_RUNS is 'none'"):
        serve._deployed_fingerprint(settings)


def test_a_run_that_dies_at_once_is_crashed_and_so_is_one_the_server_forgot(
    at: Places, api: Api
) -> None:
    """Neither ever sends a heartbeat. Registering anew deletes what was known of the first."""

    def running() -> str:
        run = api.create_run(deployment_name("pipeline"), {}, ["kontext"])
        api.set_state(run["id"], "RUNNING", "Running", force=True)
        return str(run["id"])

    forgotten = running()
    state = serve.Running.load(serve._state(at))
    state.deployed = "another"
    state.save(serve._state(at))
    names = ("refresh", "pipeline", "nightly-evaluation", "retention")
    serve.up(at)
    for name in names:  # a canary paused them in a test above; registering anew resumes nothing
        assert api.call("GET", f"/deployments/name/{deployment_name(name)}")["paused"]
    dead = (forgotten, running())
    until(lambda: all(api.run(each)["state_type"] == "CRASHED" for each in dead))
    assert all("no heartbeat" in api.run(each)["state"]["message"] for each in dead)


def test_a_killed_stage_is_retried_once_and_its_dead_task_ends(
    at: Places, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started from its own deployment, killed while it works; the server alone notices."""
    monkeypatch.setattr(after_crash, "CRASH_SETTLES_SECONDS", 0.0)
    run = api.create_run(stage_deployment("ingest"), {"options": {"recipe": "ci"}}, ["kontext"])
    running = serve.Running.load(serve._state(at))
    env = child_environment(at, serve._settings(at, running, ""))
    env["PREFECT__FLOW_RUN_ID"] = run["id"]
    process = subprocess.Popen([sys.executable, "-m", "prefect.engine"], env=env)
    until(lambda: [t["state_type"] for t in tasks(api, run)] == ["RUNNING"])
    process.kill()
    process.wait()

    given = {"run": f"prefect.flow-run.{run['id']}"}
    (mend,) = until(lambda: [r for r in runs(api, "after-crash") if r["parameters"] == given])
    assert mend["created_by"]["display_value"] == MEND
    with as_a_run(at, api):
        end = after_crash.after_crash.fn(mend["parameters"]["run"])
        assert end.message == f"'{api.run(run['id'])['name']}': 1 tasks ended; retried"
        found = api.run(run["id"])
        assert (found["state_name"], found["run_count"]) == ("AwaitingRetry", 1)
        assert found["state"]["message"] == after_crash.RETRIED
        until(lambda: [t["state_type"] for t in tasks(api, run)] == ["CRASHED"])
        end = after_crash.after_crash.fn(run["id"])  # of a crash that is reported twice
        assert end.message.endswith("0 tasks ended; it goes on already")
        api.set_state(run["id"], "CRASHED", "Crashed", "again", force=True)
        end = after_crash.after_crash.fn(run["id"])
        assert end.message.endswith("it was retried before")
    assert api.run(run["id"])["state_name"] == "Crashed"


@pytest.mark.parametrize(
    ("flow", "before", "message", "said"),
    [
        (stage_deployment("ingest"), "RUNNING", STOPPED, f"{STOPPED}, not retried"),
        (stage_deployment("ingest"), "CANCELLING", "exit -9", "it was being cancelled"),
        (deployment_name("retention"), "RUNNING", "exit -9", "only stages are retried"),
    ],
)
def test_what_ended_on_purpose_or_is_no_stage_is_left(
    at: Places,
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    flow: str,
    before: str,
    message: str,
    said: str,
) -> None:
    monkeypatch.setattr(after_crash, "CRASH_SETTLES_SECONDS", 0.0)
    run = api.create_run(flow, {}, ["kontext"])
    api.set_state(run["id"], before, before.title(), force=True)
    api.set_state(run["id"], "CRASHED", "Crashed", message, force=True)
    with as_a_run(at, api):
        assert after_crash.after_crash.fn(run["id"]).message.endswith(said)
    assert api.run(run["id"])["state_type"] == "CRASHED"


def as_a_run(at: Places, api: Api) -> AbstractContextManager[Any]:
    """This process with the settings of a flow run."""
    known = {PREFECT_API_URL: f"{api.url}/api", PREFECT_API_AUTH_STRING: kept(at)}
    return temporary_settings(known)


def tasks(api: Api, run: Any) -> list[Any]:
    wanted = {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}}
    return list(api.call("POST", "/task_runs/filter", wanted))


def test_reports_are_linked_unless_the_server_is_another(
    at: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = serve.REPORT_URL
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:pass")
    assert serve._settings(at, serve.Running(), "")[name] == "/report"
    assert serve._settings(at, serve.Running(), "http://elsewhere:4200")[name] == ""
