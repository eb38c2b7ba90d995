"""The pipeline against a real Prefect server: reuse, retry in place, adoption, artifacts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.flow_engine import run_flow
from prefect.states import Running, Scheduled

from flows import children, pipeline
from flows.names import artifact_tag, stage_deployment
from flows.server.api import Api
from flows.server.automations import ZOMBIES
from flows.server.status import stage_states
from flows.stages import STAGE_FLOWS
from tasks.workspace import open_engine, places, resolve_recipe
from tests.flows.local_worker import LocalWorker, local_worker

pytestmark = pytest.mark.prefect


@pytest.fixture
def worker(
    client: SyncPrefectClient, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LocalWorker]:
    monkeypatch.setattr(pipeline, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(children, "CRASH_SETTLES_SECONDS", 0.1)
    with local_worker() as started:
        yield started


def _submit(client: SyncPrefectClient, **options: Any) -> FlowRun:
    found = client.read_deployment_by_name("pipeline/pipeline")
    return client.create_flow_run_from_deployment(found.id, parameters={"options": options})


def _execute(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    run_flow(pipeline.pipeline, flow_run=client.read_flow_run(run.id), return_type="state")
    return client.read_flow_run(run.id)


def _children(client: SyncPrefectClient, run: FlowRun) -> dict[str, FlowRun]:
    parent = FlowRunFilterParentFlowRunId(any_=[run.id])
    found = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
    return {child.name.split(" · ")[1]: child for child in found}


def _api(client: SyncPrefectClient) -> Api:
    return Api(str(client.api_url).rstrip("/").removesuffix("/api"))


def _artifacts(client: SyncPrefectClient, run_id: UUID) -> dict[str, Any]:
    owner = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    return {str(a.key): a for a in client.read_artifacts(artifact_filter=owner)}


def _keys(client: SyncPrefectClient, run_id: UUID) -> list[str]:
    owner = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
    return [str(a.key) for a in client.read_artifacts(artifact_filter=owner)]


def test_a_failed_stage_is_retried_in_place_and_the_rest_is_kept(
    client: SyncPrefectClient, worker: LocalWorker, toy: Path
) -> None:
    (toy / "fail-index").touch()
    first = _execute(client, _submit(client))
    assert first.state is not None and first.state.is_failed()
    cause = "KontextError: toy index was told to fail"
    assert first.state.message == (
        f"stage 'index' failed: {cause}; continue with: kontext run --recipe demo"
    )
    before = _children(client, first)
    index = open_engine(resolve_recipe("demo"), places()).digests()["index"]
    assert first.name.startswith(f"demo · pipeline · demo@{index[:8]} · ")  # not committed yet
    assert before["mine"].name.startswith(f"demo · mine · demo@{index[:8]} · ")
    assert {"kontext", "demo", "mine", f"demo@{index[:8]}"} <= set(before["mine"].tags)
    assert {name: child.state_name for name, child in before.items()} == {
        "ingest": "Completed",
        "mine": "Completed",
        "index": "Failed",
        "distill": "Completed",  # a branch that does not need the failed stage goes on
    }
    failed = before["index"]
    assert failed.state is not None
    assert failed.state.message == (
        f"{cause}; continue with: kontext run --recipe demo --until index"
    )
    assert cause in _artifacts(client, failed.id)["stage-index"].data
    page = _artifacts(client, first.id)["pipeline-summary"].data
    assert f"**index failed:** {cause}\n\nContinue with `kontext run --recipe demo`" in page

    (toy / "fail-index").unlink()
    client.set_flow_run_state(first.id, Scheduled(name="AwaitingRetry"), force=True)
    second = _execute(client, first)
    assert second.state is not None and second.state.is_completed()
    went_on = f"resumed from step 1 of 4 (attempt 2, after one that Failed: {cause})"
    assert second.state.message == f"1 stage ran, 3 reused; index: {went_on}"
    after = _children(client, second)
    assert {name: child.id for name, child in after.items()} == {
        name: child.id for name, child in before.items()
    }
    counts = {name: child.run_count for name, child in after.items()}
    assert counts == {"ingest": 1, "mine": 1, "index": 2, "distill": 1}

    assert _keys(client, second.id).count("pipeline-summary") == 1  # a retried run has one page
    page = _artifacts(client, after["index"].id)["stage-index"].data
    assert f"; {went_on}.\n" in page and page.startswith("# index: ran\n\nMade index/")
    assert went_on in _artifacts(client, second.id)["pipeline-summary"].data.replace("\\|", "|")

    third = _execute(client, _submit(client))
    assert (
        third.state is not None
        and third.state.message == "nothing to make: all 4 stages are reused"
    )
    assert _children(client, third) == {}
    page = _artifacts(client, third.id)["pipeline-summary"].data
    made = _artifacts(client, after["mine"].id)["stage-mine"].id
    assert f"[**mine**](/v2/artifacts/artifact/{made}) | reused: made 2" in page  # its own page
    assert "/v2/artifacts/key/" not in page
    assert third.name.startswith("demo · pipeline · demo@v1 · ")


def test_a_crash_is_retried_once_and_artifacts_tell_the_story(
    client: SyncPrefectClient, worker: LocalWorker
) -> None:
    worker.crash.add("mine")
    run = _execute(client, _submit(client))
    assert run.state is not None and run.state.is_completed()
    mine = _children(client, run)["mine"]
    assert mine.run_count == 1  # the crashed attempt never started
    made = _artifacts(client, mine.id)
    assert set(made) == {
        "mine-progress",
        "mine-samples",
        "mine-counts",
        "mine-about",
        "stage-mine",
    }
    assert made["mine-progress"].data == 100.0
    assert made["mine-samples"].data.startswith('<img src="data:image/png;base64,')
    assert f"/v2/artifacts/artifact/{made['mine-samples'].id}" in made["stage-mine"].data
    assert "a fallback was taken" in made["stage-mine"].data
    summary = _artifacts(client, run.id)["pipeline-summary"].data
    assert f"/v2/artifacts/artifact/{made['stage-mine'].id}" in summary
    assert f"/v2/runs/flow-run/{mine.id}" in summary
    assert "```mermaid" in summary
    assert set(_artifacts(client, run.id)) == {"pipeline-summary"}  # all of it on one page

    forced = _execute(client, _submit(client, force=["mine"]))
    assert forced.state is not None and forced.state.message == "3 stages ran, 1 reused"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"start": "distill", "until": "mine"}, "no stage to run: 'mine' comes before 'distill'"),
        ({"only": "mine", "start": "mine"}, "'only mine' and 'from mine' exclude each other"),
        ({"overrides": ["mine.sede=1"]}, "sede"),
    ],
)
def test_a_request_that_comes_to_nothing_is_refused_before_a_stage_is_dispatched(
    client: SyncPrefectClient, toy: Path, options: dict[str, Any], why: str
) -> None:
    run = _execute(client, _submit(client, **options))
    assert run.state is not None and run.state.is_failed()
    assert str(run.state.message).startswith("refused: ") and why in str(run.state.message)
    assert len(str(run.state.message).splitlines()) == 1 and _children(client, run) == {}


def test_work_of_another_run_is_gone_on_with_and_named(
    client: SyncPrefectClient, worker: LocalWorker, toy: Path
) -> None:
    (toy / "fail-ingest").touch()
    first = _execute(client, _submit(client, until="ingest"))
    left = _children(client, first)["ingest"]
    told = {
        s.stage: s.why
        for s in stage_states(open_engine(resolve_recipe("demo"), places()), _api(client))
    }
    assert told["ingest"] == (
        f"never made; the run '{left.name}' failed: KontextError: toy ingest was told to fail; "
        "continue with: kontext run --recipe demo --until ingest"
    )
    (toy / "fail-ingest").unlink()
    second = _execute(client, _submit(client, until="ingest"))
    assert second.state is not None and second.state.message == (
        f"1 stage ran, 0 reused; ingest: resumed from step 1 of 4 of run '{left.name}', because "
        "that Failed: KontextError: toy ingest was told to fail"
    )


def test_a_stage_started_by_itself_is_found_by_its_artifact_and_keeps_its_name(
    client: SyncPrefectClient, toy: Path
) -> None:
    digest = open_engine(resolve_recipe("demo"), places()).digests()["ingest"]
    found = client.read_deployment_by_name(stage_deployment("ingest"))
    run = client.create_flow_run_from_deployment(found.id, name="my own ingest")
    run_flow(STAGE_FLOWS["ingest"], flow_run=client.read_flow_run(run.id), return_type="state")
    done = client.read_flow_run(run.id)
    assert done.state is not None and done.state.is_completed() and done.name == "my own ingest"
    assert {"kontext", "demo", "ingest", artifact_tag("ingest", digest)} <= set(done.tags)
    pipeline_run = _execute(client, _submit(client, until="ingest"))
    assert {"kontext", "demo"} <= set(pipeline_run.tags)


def test_a_second_crash_fails_the_pipeline(
    client: SyncPrefectClient, worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalWorker, "crash", property(lambda _: _Always("ingest")), raising=False)
    run = _execute(client, _submit(client))
    assert run.state is not None and run.state.is_failed()
    assert "stage 'ingest' failed: killed" in (run.state.message or "")
    assert set(_children(client, run)) == {"ingest"}


class _Always(set[str]):
    """A set of one name that cannot be taken out."""

    def __init__(self, name: str) -> None:
        super().__init__({name})

    def discard(self, name: str, /) -> None:
        return


def test_a_run_of_a_killed_pipeline_is_adopted(
    client: SyncPrefectClient, worker: LocalWorker
) -> None:
    recipe = resolve_recipe("demo")
    digest = open_engine(recipe, places()).digests()["ingest"]
    found = client.read_deployment_by_name("ingest/stage-ingest")
    other = client.create_flow_run_from_deployment(
        found.id, tags=["ingest", artifact_tag("ingest", digest)], state=Running()
    )
    run = _submit(client)
    # the orphan ends once the pipeline has started to wait for it
    ended: list[str] = []

    def poll(self: children.Children, child: FlowRun) -> FlowRun:
        if not ended:
            assert child.id == other.id
            client.set_flow_run_state(other.id, Scheduled(), force=True)
            ended.append("orphan")
        return client.read_flow_run(child.id)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(children.Children, "poll", poll)
        done = _execute(client, run)
    assert done.state is not None and done.state.is_completed()
    assert set(_children(client, run)) == {"mine", "index", "distill"}


def test_cancelling_the_pipeline_cancels_its_children(client: SyncPrefectClient, toy: Path) -> None:
    run = _submit(client)

    @task
    def dispatch() -> None: ...

    # a child is linked to its parent through a task run
    link = client.create_task_run(dispatch, flow_run_id=run.id, dynamic_key="1")
    found = client.read_deployment_by_name("ingest/stage-ingest")
    child = client.create_flow_run_from_deployment(found.id, parent_task_run_id=link.id)
    children.cancel_children(None, client.read_flow_run(run.id), None)
    state = client.read_flow_run(child.id).state
    assert state is not None and state.type in (StateType.CANCELLED, StateType.CANCELLING)
    told = [state.message for state in client.read_flow_run_states(child.id)]
    assert f"its run '{run.name}' was cancelled" in told


def test_everything_is_registered(client: SyncPrefectClient) -> None:
    names = sorted(d.name for d in client.read_deployments())
    assert {"pipeline", "refresh", "stage-ingest"} <= set(names)
    assert "pipeline" in names[:10]  # the first page of the UI's list
    entrypoints = {str(d.entrypoint) for d in client.read_deployments()}
    assert "flows.pipeline.pipeline" in entrypoints
    assert "flows.stages.train_autoencoder" in entrypoints
    for pool, queue, limit in (
        ("cpu", "stages", 2),
        ("gpu", "stages", None),
        ("cpu", "pipelines", None),
    ):
        found = client._client.get(f"/work_pools/{pool}/queues/{queue}").json()
        assert found["concurrency_limit"] == limit
    limits = {p: client._client.get(f"/work_pools/{p}").json() for p in ("cpu", "gpu")}
    assert {p: found["concurrency_limit"] for p, found in limits.items()} == {"cpu": None, "gpu": 1}
    automations = client._client.post("/automations/filter", json={}).json()
    zombie = next(a for a in automations if a["name"] == ZOMBIES)
    assert zombie["trigger"]["within"] == 120.0
    assert zombie["trigger"]["posture"] == "Proactive"
