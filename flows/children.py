"""Dispatching stage runs as children of a pipeline run, so that each can be retried alone.

A child's idempotency key is (parent run, stage): a retried parent finds the children it had. A
finished child is taken as it is; a failed one is set back to AwaitingRetry in place.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from prefect.deployments import run_deployment
from prefect.states import Cancelling, Scheduled

from flows.names import artifact_tag, deployment_name, run_name
from tasks.reporter import Log

ACTIVE = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
# One crash is reported twice, by the engine's process and 2 s later by the worker; a retry set
# between the two would be crashed by the second report.
CRASH_SETTLES_SECONDS = 4.0


class Children:
    """Stage runs of one pipeline run."""

    def __init__(
        self,
        client: SyncPrefectClient,
        parent: UUID,
        attempt: int,
        log: Log,
        sleep: Callable[[float], None] = time.sleep,
        tags: Sequence[str] = (),
        dataset: Callable[[], str] = lambda: "",
    ) -> None:
        self._client = client
        self._parent = parent
        self._attempt = attempt  # run count of the parent, from 1
        self._log = log
        self._sleep = sleep
        self._tags = tags
        self._dataset = dataset  # its version as known when a stage is dispatched
        self._crashes: dict[UUID, int] = {}

    def start(
        self, stage: str, digest: str, options: dict[str, Any], done: Callable[[], bool]
    ) -> FlowRun:
        """The stage's run: one that is on its way already, this parent's own, or a new one.

        `done` says whether the stage's artifact exists: a finished child whose artifact has been
        removed since is not taken for done.
        """
        other = self._active_run(stage, digest)
        if other is not None and not options["force"]:
            self._log.info("%s is being made by run %s: waiting for it", stage, other.name)
            return other
        key = f"{self._parent}:{stage}"
        child = self._dispatch(stage, digest, options, key)
        if child.state is None or not child.state.is_final():
            return child
        if not child.state.is_completed():
            self._log.info("%s was %s: retrying in place", stage, str(child.state.name).lower())
            return self._retry(child)
        if done() or options["force"]:
            return child
        return self._dispatch(stage, digest, options, f"{key}:{self._attempt}")

    def poll(self, child: FlowRun) -> FlowRun:
        """The child's state now. A crash is retried in place, once."""
        now = self._client.read_flow_run(child.id)
        if now.state is None or not now.state.is_crashed() or self._crashes.get(now.id):
            return now
        self._crashes[now.id] = 1
        why = (now.state.message or "no reason given").partition(". ")[0]
        self._log.warning("%s crashed (%s): retrying in place", now.name, why)
        self._sleep(CRASH_SETTLES_SECONDS)
        return self._retry(now)

    def summary_page(self, child: FlowRun) -> str:
        """Id of the summary artifact that a finished child published; empty if it has none."""
        found = self._client.read_artifacts(
            artifact_filter=ArtifactFilter(
                flow_run_id=ArtifactFilterFlowRunId(any_=[child.id]),
                key=ArtifactFilterKey(like_="stage-%"),
            ),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
        return str(found[0].id) if found else ""

    def _dispatch(self, stage: str, digest: str, options: dict[str, Any], key: str) -> FlowRun:
        recipe, forced = str(options["recipe"]), bool(options["force"])
        run = run_deployment(
            deployment_name(stage),
            parameters={"options": options},
            flow_run_name=run_name(recipe, stage, self._dataset(), digest, forced),
            tags=[
                "kontext",
                recipe,
                stage,
                artifact_tag(stage, digest),
                *self._tags,
            ],
            idempotency_key=key,
            timeout=0,
        )
        assert isinstance(run, FlowRun)
        return run

    def _active_run(self, stage: str, digest: str) -> FlowRun | None:
        """A run of another parent (perhaps killed since) that makes the same artifact."""
        found = self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[artifact_tag(stage, digest)]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE)),
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=1,
        )
        return found[0] if found else None

    def _retry(self, child: FlowRun) -> FlowRun:
        state: State[Any] = Scheduled(name="AwaitingRetry", message="retried by its pipeline run")
        self._client.set_flow_run_state(child.id, state, force=True)
        return self._client.read_flow_run(child.id)


def cancel_children(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """on_cancellation hook: without it children run on for half a minute."""
    with get_client(sync_client=True) as client:
        for child in client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run.id]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE)),
            )
        ):
            client.set_flow_run_state(child.id, Cancelling(message="its pipeline was cancelled"))
