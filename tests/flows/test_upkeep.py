"""Refresh, backfill, retention, automations and status, against a real Prefect server."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from filelock import FileLock
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Completed, Failed, Running, Scheduled
from typer.testing import CliRunner

from flows import backfill, children, cli, pipeline, retention
from flows.forms import BackfillForm, RetentionForm, StageChoice, Wanted
from flows.names import artifact_tag, deployment_name
from flows.overlap import refuse_overlap
from flows.refresh import refresh
from flows.server.api import Api
from flows.server.automations import PAUSE, TRAIN, WARN
from flows.server.settings import fresh_days
from flows.server.status import schedules, stage_states
from kontext.errors import ArtifactError, KontextError, RecipeError
from tasks.watermark import read_watermark
from tasks.workspace import open_engine, places, resolve_recipe
from tests.flows.local_worker import local_worker

pytestmark = pytest.mark.prefect
SCHEDULED = {"type": {"any_": ["SCHEDULED"]}}


def _refresh(client: SyncPrefectClient, due: datetime | None = None, **options: Any) -> FlowRun:
    found = client.read_deployment_by_name("refresh/refresh")
    state = Scheduled(scheduled_time=due) if due else None
    run = client.create_flow_run_from_deployment(
        found.id, parameters={"options": options}, state=state
    )
    run_flow(refresh, flow_run=client.read_flow_run(run.id), return_type="state")
    return client.read_flow_run(run.id)


def _message(run: FlowRun) -> str:
    assert run.state is not None and run.state.is_completed(), run.state
    return run.state.message or ""


def test_a_refresh_commits_says_what_changed_and_catches_up_once(
    client: SyncPrefectClient, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(children, "CRASH_SETTLES_SECONDS", 0.1)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with local_worker():
        first = _refresh(client, due=yesterday)
        assert _message(first) == "version 1: local pairs +3 −0"
        assert first.name == "demo · refresh · demo"
        late = _refresh(client, due=yesterday + timedelta(hours=1))
        assert late.name == "demo · refresh · demo after v1"
        assert _message(late).startswith("nothing to catch up")
        now = _refresh(client)
        assert _message(now) == "version 1: nothing changed"
        words = ["run", "--direct", "--set", "mine.seed=5", "--until", "index"]
        assert CliRunner().invoke(cli.app, words).exit_code == 0
        same = _refresh(client, overrides=["mine.seed=5"])  # a pipeline has made this version
        assert _message(same) == "version 1: nothing changed"
    owner = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[first.id]))
    pages = {a.key: a.data for a in client.read_artifacts(artifact_filter=owner)}
    assert "| pairs | local | 0 | 3 | +3 | −0 |" in pages["refresh-changes"]
    engine = open_engine(resolve_recipe("demo", ["mine.seed=5"]), places())
    mark = read_watermark(engine.objects, "demo")
    assert mark is not None and mark.index == engine.digests()["index"]
    assert {s.stage: s.state for s in engine.status()}["distill"] == "missing"


def test_a_second_refresh_says_which_run_is_at_it(client: SyncPrefectClient, toy: Path) -> None:
    found = client.read_deployment_by_name("refresh/refresh")
    other = client.create_flow_run_from_deployment(found.id, name="the first", state=Running())
    second = _refresh(client)
    assert second.state is not None and second.state.is_cancelled()
    told = str(second.state.message)
    assert told.startswith(f"the run 'the first' ({other.id}) is at it since ")
    client.set_flow_run_state(other.id, Failed(), force=True)

    @flow
    def first_of_two() -> bool:
        later = client.create_flow_run_from_deployment(found.id, state=Running())
        goes_on = refuse_overlap() is None
        client.set_flow_run_state(later.id, Failed(), force=True)
        return goes_on

    run = client.create_flow_run_from_deployment(found.id)
    assert run_flow(first_of_two, flow_run=client.read_flow_run(run.id)) is True


def test_a_backfill_takes_what_is_missing_or_failed(client: SyncPrefectClient, toy: Path) -> None:
    recipe = resolve_recipe("demo")
    names = list(backfill.partitions(recipe))
    assert {"scenes", "dicebear"} <= set(names)

    def chosen(which: Wanted, only: list[str]) -> dict[str, str]:
        form = BackfillForm(which=which, partitions=only, until=StageChoice("index"))
        return {p.name: p.state for p in backfill.plan_partitions(client, form, recipe)}

    assert chosen(Wanted.missing_or_failed, ["scenes"]) == {
        name: "waiting" if name == "scenes" else "skipped" for name in names
    }
    assert set(chosen(Wanted.failed, []).values()) == {"skipped"}
    found = client.read_deployment_by_name("pipeline/pipeline")
    tag = backfill.partition_tag(recipe, "signs")
    client.create_flow_run_from_deployment(found.id, tags=[tag], state=Failed())
    assert chosen(Wanted.failed, [])["signs"] == "waiting"
    assert chosen(Wanted.missing, [])["signs"] == "skipped"
    with pytest.raises(RecipeError, match="no partition 'nope'"):
        chosen(Wanted.all, ["nope"])


def test_a_backfill_runs_side_by_side_and_reports_failures(
    client: SyncPrefectClient, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(backfill, "get_run_logger", lambda: backfill.__dict__["_log"])
    monkeypatch.setitem(backfill.__dict__, "_log", __import__("logging").getLogger("test"))
    recipe = resolve_recipe("demo")
    form = BackfillForm(at_once=1)
    todo = backfill.plan_partitions(client, form, recipe)
    made: list[UUID] = []
    real = backfill._dispatch

    def dispatch(*args: Any) -> FlowRun:
        run = real(*args)
        made.append(run.id)
        end = Failed() if len(made) == 2 else Completed()
        client.set_flow_run_state(run.id, end, force=True)
        return run

    monkeypatch.setattr(backfill, "_dispatch", dispatch)
    backfill.run_partitions(client, form, recipe, todo, f"test-{time.time()}")
    assert [part.state for part in todo] == ["done", "failed", *["done"] * (len(todo) - 2)]
    end = backfill.final_state(todo)
    assert end.is_failed() and str(end.message).startswith(f"1 of {len(todo)} partitions failed")
    parameters = client.read_flow_run(made[0]).parameters["options"]
    assert parameters["until"] == "index" and "shard.dataset=demo-" in str(parameters)
    assert "| failed |" in backfill.page_text(todo)


def test_the_command_of_a_backfill_shows_its_log_while_it_waits(
    client: SyncPrefectClient, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is the test's; a thread is the worker that takes the run."""
    url = str(client.api_url).rstrip("/")
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr("flows.server.serve.up", lambda at, say: None)
    api, known = Api(url.removesuffix("/api")), deployment_name("backfill")
    wanted = {"deployment_id": {"any_": [api.deployment_id(known)]}, "state": SCHEDULED}
    older = {run["id"] for run in api.runs(wanted)}

    def work() -> None:
        while not (new := [r["id"] for r in api.runs(wanted) if r["id"] not in older]):
            time.sleep(0.1)
        with get_client(sync_client=True) as own:
            run_flow(backfill.backfill, flow_run=own.read_flow_run(new[0]), return_type="state")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    shown = CliRunner().invoke(cli.app, ["backfill", "--which", "failed", "--partition", "scenes"])
    worker.join(60)
    assert shown.exit_code == 0, shown.output
    assert "backfill │ 0 of " in shown.stderr and " partitions to run" in shown.stderr
    assert shown.stdout.startswith("0 partitions ran, ")


def test_automations_are_registered_with_their_targets(client: SyncPrefectClient) -> None:
    found = {a["name"]: a for a in client._client.post("/automations/filter", json={}).json()}
    deployed = {d.id: d.name for d in client.read_deployments()}
    train = found[TRAIN]["actions"][0]
    assert deployed[UUID(train["deployment_id"])] == "pipeline"
    assert found[TRAIN]["trigger"]["match"] == {"kontext.train": "yes"}
    paused = {deployed[UUID(a["deployment_id"])] for a in found[PAUSE]["actions"]}
    assert paused == {"refresh", "pipeline", "nightly-evaluation", "retention"}
    assert found[WARN]["trigger"]["within"] == 7 * 86_400
    assert found[WARN]["trigger"]["posture"] == "Proactive"


def test_the_servers_scheduler_makes_runs(client: SyncPrefectClient) -> None:
    """With SQLAlchemy 2.1 it fails inside the server, and no schedule ever fires."""
    found = client.read_deployment_by_name("retention/retention")
    http = client._client
    # a failed gate of an earlier test on this server pauses the deployment, as it should
    http.patch(f"/deployments/{found.id}", json={"paused": False})
    schedule = {"schedule": {"interval": 3600}, "active": True}
    made = http.post(f"/deployments/{found.id}/schedules", json=[schedule]).json()
    try:
        asked = http.post(f"/deployments/{found.id}/schedule", json={"min_runs": 2})
        assert asked.status_code == 200
        wanted = {"flow_runs": {"deployment_id": {"any_": [str(found.id)]}}}
        runs = http.post("/flow_runs/filter", json=wanted).json()
        assert sum(run["auto_scheduled"] for run in runs) >= 2
        (row,) = schedules(Api(str(client.api_url).removesuffix("/").removesuffix("/api")))
        due = min(run["expected_start_time"] for run in runs if run["auto_scheduled"])
        assert (row["name"], row["state"], row["schedule"]) == (
            "retention",
            "active",
            "every 3600 s",
        )
        assert row["next"] == due[:16].replace("T", " ")
    finally:
        http.delete(f"/deployments/{found.id}/schedules/{made[0]['id']}")


def test_days_without_a_refresh_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KONTEXT_FRESH_DAYS", "2.5")
    assert fresh_days() == 2.5
    monkeypatch.setenv("KONTEXT_FRESH_DAYS", "soon")
    with pytest.raises(KontextError, match="KONTEXT_FRESH_DAYS is 'soon'"):
        fresh_days()


def test_status_says_running_and_by_whom(client: SyncPrefectClient, toy: Path) -> None:
    # the server is shared: runs of other tests made artifacts of the recipe without changes
    engine = open_engine(resolve_recipe("demo", ["ingest.resolution=48"]), places())
    api = Api(str(client.api_url).removesuffix("/api/").removesuffix("/api"))
    digests = engine.digests()
    found = client.read_deployment_by_name("ingest/stage-ingest")
    run = client.create_flow_run_from_deployment(
        found.id, tags=[artifact_tag("ingest", digests["ingest"])], state=Running(), name="mine me"
    )
    states = {s.stage: (s.state, s.why) for s in stage_states(engine, api)}
    assert states["ingest"] == ("running", "running: 'mine me' (never made)")
    assert states["mine"] == ("missing", "never made")
    client.set_flow_run_state(run.id, Completed(), force=True)
    (toy / "locks").mkdir()
    with FileLock(toy / "locks" / f"mine-{digests['mine']}.lock"):
        states = {s.stage: (s.state, s.why) for s in stage_states(engine, api)}
    assert states["ingest"] == ("missing", "never made")
    assert states["mine"] == ("running", "a process of this home (never made)")
    assert {s.state for s in stage_states(engine, None)} == {"missing"}  # the lock's file is there


def test_chosen_versions_are_taken_as_they_are(finished: Path) -> None:
    recipe = resolve_recipe("demo", ["mine.seed=5"])
    wanted = open_engine(resolve_recipe("demo"), places()).digests()["mine"]
    engine = open_engine(recipe, places(), versions=["mine"])
    assert engine.digests()["mine"] == wanted
    assert {s.stage: s.state for s in engine.status()}["distill"] == "done"
    plan = {p.stage: p.reused for p in engine.plan(force=("ingest",))}
    assert plan == {"ingest": False, "mine": True, "index": True, "distill": False}
    with pytest.raises(ArtifactError, match="both chosen as a version and to be run"):
        engine.plan(force=("mine",))
    with pytest.raises(ArtifactError, match="no artifact, tag or stage 'nope'"):
        open_engine(recipe, places(), versions=["nope"])


def test_old_scratch_is_found_and_fresh_scratch_is_not(tmp_path: Path) -> None:
    for name, age in (("old", 9), ("fresh", 1)):
        file = tmp_path / "scratch" / "finetune" / name / "checkpoint.pt"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
        then = time.time() - age * 86_400
        for path in (file, file.parent):
            os.utime(path, (then, then))
    found = retention.stale_scratch(tmp_path, timedelta(days=7))
    assert [path.name for path in found] == ["old"]


def test_retention_removes_the_untagged_and_compacts_the_catalog(
    prefect_server: None, toy: Path
) -> None:
    runner = CliRunner()
    for seed in ("1", "2"):
        words = ["run", "--direct", "--set", f"mine.seed={seed}"]
        assert runner.invoke(cli.app, words).exit_code == 0
    month = datetime.now(UTC) - timedelta(days=30)
    with closing(sqlite3.connect(toy / "catalog.sqlite")) as database, database:
        database.execute("UPDATE ducklake_snapshot SET snapshot_time = ?", [str(month)])
    for file in (toy / "store" / "runs").rglob("manifest.json"):
        manifest = json.loads(file.read_text())
        file.chmod(0o644)
        file.write_text(json.dumps({**manifest, "created_at": month.isoformat()}))
    planned = retention.retention(RetentionForm(grace_days=7))
    told = retention.retention(RetentionForm(grace_days=7), return_state=True).message
    assert told.startswith("would be removed: 3 artifacts, ") and told.endswith(
        "retention --delete"
    )
    assert planned["artifacts"] == 3 and planned["snapshots"] > 5 and not planned["deleted"]
    done = retention.retention(RetentionForm(grace_days=7, delete=True))
    assert (done["artifacts"], done["snapshots"]) == (3, planned["snapshots"])
    left = json.loads(runner.invoke(cli.app, ["artifacts", "list", "--json"]).stdout)
    assert sorted(row["stage"] for row in left) == ["distill", "index", "ingest", "mine"]
    rows = runner.invoke(cli.app, ["sql", "select count(*) as n from runs", "--json"])
    assert json.loads(rows.stdout) == [{"n": 7}]  # what was made is still known
    assert retention.retention(RetentionForm(grace_days=7))["artifacts"] == 0


def test_two_processes_on_one_store_make_the_same_artifacts_once(tmp_path: Path) -> None:
    """Two homes, one store, both from nothing at the same time."""
    code = (
        "import sys, logging; from pathlib import Path; from kontext.engine.run import Engine;"
        "from kontext.engine.stage import Reporter; from tests.flows.toy_stages import GRAPH;"
        "from schemas.recipes import load_recipe; home = Path(sys.argv[1]);"
        "e = Engine(load_recipe('ci'), sys.argv[2], str(home / 'c.sqlite'), home, stages=GRAPH);"
        "[e.run_stage(s, Reporter(logging.getLogger('x'))) for s in GRAPH];"
        "print(sorted(e.digests().items()))"
    )
    store = f"file://{tmp_path}/store"
    env = {**os.environ, "TOY_SECONDS": "0.5"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / name), store],
            env=env, stdout=subprocess.PIPE, text=True,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1]
    from kontext.store.artifacts.artifact_store import ArtifactStore
    from kontext.store.objects import open_store

    found = ArtifactStore(open_store(store), tmp_path / "cache")
    assert len(found.list()) == 4
    assert found.verify().problems == ()
