"""Which gates pause schedules, who is told, and resuming, against a real Prefect server."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from typer.testing import CliRunner

from flows import cli, nightly
from flows.names import deployment_name, stage_deployment
from flows.server.api import Api
from flows.server.pause import BY_HAND, Pause, pauses, resume
from flows.stages import STAGE_FLOWS
from kontext.errors import CanaryError, DivergedError, GateError, KontextError

pytestmark = pytest.mark.prefect
SCHEDULED = {"refresh", "pipeline", "nightly-evaluation", "retention"}
LINE = "; schedules paused: refresh, pipeline, nightly-evaluation, retention; resume with: "
GO_ON = "; continue with: kontext run --recipe demo --until mine"
INFRA = Path(__file__).resolve().parents[2] / "infra"


@pytest.fixture
def api(client: SyncPrefectClient, toy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The server's API, also for commands; nothing is paused before and after."""
    url = str(client.api_url).rstrip("/").removesuffix("/api")
    monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
    found = Api(url)
    resume(found, [])
    yield found
    resume(found, [])


def _mine(client: SyncPrefectClient) -> FlowRun:
    """A run of stage mine by itself, to its end."""
    found = client.read_deployment_by_name(stage_deployment("mine"))
    run = client.create_flow_run_from_deployment(found.id, parameters={"options": {}})
    run_flow(STAGE_FLOWS["mine"], flow_run=client.read_flow_run(run.id), return_type="state")
    return client.read_flow_run(run.id)


def _stop_mine(client: SyncPrefectClient, home: Path, kind: type[GateError]) -> FlowRun:
    flag = home / f"{kind.__name__}-mine"
    flag.touch()
    try:
        return _mine(client)
    finally:
        flag.unlink()


def _until(ready: Callable[[], Any]) -> Any:
    limit = time.monotonic() + 120
    while not (found := ready()):
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.2)
    return found


def _events(api: Api, name: str) -> list[Any]:
    body = {"filter": {"event": {"name": [name]}}, "limit": 50}
    return list(api.call("POST", "/events/filter", body)["events"])


def test_a_canary_pauses_and_other_gates_do_not(
    client: SyncPrefectClient, api: Api, toy: Path
) -> None:
    assert CliRunner().invoke(cli.app, ["run", "--direct", "--until", "ingest"]).exit_code == 0
    events = {}
    for kind in (DivergedError, GateError):
        before = len(_events(api, f"kontext.{kind.kind}"))
        run = _stop_mine(client, toy, kind)
        assert run.state is not None and run.state.message == (
            f"{kind.__name__}: toy mine met a gate{GO_ON}"
        )
        event = _until(lambda b=before, k=kind: _events(api, f"kontext.{k.kind}")[: -b or None])
        events[kind.kind] = event[0]["payload"]["run_id"]
        assert event[0]["payload"]["run_id"] == str(run.id)
    assert set(events) == {"training.diverged", "gate.failed"} and pauses(api) == []

    run = _stop_mine(client, toy, CanaryError)
    assert run.state is not None
    assert run.state.message == f"CanaryError: toy mine met a gate{LINE}kontext resume{GO_ON}"
    # the events above came first, and the server takes them in order: they paused nothing
    _until(lambda: len(pauses(api)) == len(SCHEDULED))
    found = _until(lambda: (p := pauses(api))[0].since and p)  # events are stored a little later
    assert {pause.deployment for pause in found} == SCHEDULED
    assert {(p.by, p.why, p.page) for p in found} == {
        (run.name, "toy mine met a gate", f"{api.url}/v2/runs/flow-run/{run.id}")
    }
    assert run.start_time is not None and found[0].since >= f"{run.start_time:%Y-%m-%d %H:%M}"

    told = json.loads(CliRunner().invoke(cli.app, ["status", "--json"]).stdout)
    assert [Pause(**row) for row in told["paused"]] == found
    shown = CliRunner().invoke(cli.app, ["status"]).stdout
    (line,) = [line for line in shown.splitlines() if line.startswith("refresh ")]
    assert run.name in line and "met a gate" in line and line.endswith("kontext resume")
    _resume_by_command(api, run)


def _resume_by_command(api: Api, run: FlowRun) -> None:
    done = CliRunner().invoke(cli.app, ["resume", "retention"])
    assert done.stdout == f"retention: resumed (paused by {run.name}: toy mine met a gate)\n"
    assert {p.deployment for p in pauses(api)} == SCHEDULED - {"retention"}
    again = CliRunner().invoke(cli.app, ["resume", "retention"])
    assert isinstance(again.exception, KontextError) and "not paused" in str(again.exception)
    assert CliRunner().invoke(cli.app, ["resume"]).exit_code == 0
    assert pauses(api) == []
    # what is paused by hand afterwards is not blamed on the canary
    found = api.deployment_id(deployment_name("retention"))
    api.call("POST", f"/deployments/{found}/pause_deployment")
    _until(lambda: [(p.deployment, p.by) for p in pauses(api)] == [("retention", BY_HAND)])
    assert CliRunner().invoke(cli.app, ["resume"]).stdout.startswith("retention: resumed")
    assert CliRunner().invoke(cli.app, ["resume"]).stdout == "nothing is paused\n"


def test_a_worse_model_pauses_under_its_own_event(api: Api) -> None:
    rows = [{"figure": "local", "published": 0.9, "now": 0.2, "worse": True}]
    end = nightly._final_state("model@x", rows)
    assert end.message == f"model@x got worse: local 0.9 → 0.2{LINE}kontext resume"
    who = ("kontext://evaluation/model@x", "model@x got worse: local 0.9 → 0.2")
    _until(lambda: {(pause.by, pause.why) for pause in pauses(api)} == {who})
    assert [e["resource"]["kontext.model"] for e in _events(api, "kontext.evaluation.worse")]


class _Inbox(BaseHTTPRequestHandler):
    """Takes the notifications that would go to Slack."""

    mail: ClassVar[list[dict[str, str]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.mail.append(json.loads(body))
        self.send_response(200)
        self.end_headers()


@pytest.fixture
def inbox() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Inbox) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_template_tells_people(api: Api, tmp_path: Path, inbox: str) -> None:
    """What its first lines say: a block of one's own, and prefect's command."""
    from prefect.blocks.notifications import SlackWebhook

    block: Any = SlackWebhook(url=inbox)  # type: ignore[arg-type]
    made = block.save("tell-test", overwrite=True)
    template = (INFRA / "automations" / "tell.yaml").read_text()
    file = tmp_path / "tell.yaml"
    file.write_text(template.replace("00000000-0000-0000-0000-000000000000", str(made)))
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "automation", "create", "--from-file", str(file)],
        env={**os.environ, "PREFECT_API_URL": f"{api.url}/api"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = [
        a for a in api.call("POST", "/automations/filter", {})
        if a["name"] == yaml.safe_load(template)["name"]
    ]  # fmt: skip
    assert set(found["trigger"]["expect"]) == {"kontext.canary.failed", "kontext.evaluation.worse"}
    nightly._final_state("model@y", [{"figure": "text", "published": 1, "now": 0, "worse": True}])
    _until(lambda: _Inbox.mail)
    assert _Inbox.mail[0]["title"] == "kontext: schedules are paused"
    assert _Inbox.mail[0]["message"].startswith("model@y got worse: text 1 → 0\nby the run")
    assert "kontext resume" in _Inbox.mail[0]["message"]
    api.call("DELETE", f"/automations/{found['id']}")
