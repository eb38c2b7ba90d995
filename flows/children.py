"""Dispatching stage runs as children of a pipeline run, so that each can be retried alone.

A child's idempotency key is (parent run, stage): a retried parent finds the children it had. A
finished child is taken as it is; a failed one is set back to AwaitingRetry in place.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.states import Cancelled, Cancelling, Scheduled

from flows.names import ACTIVE, artifact_tag, run_name, stage_deployment
from tasks.reporter import Log

# One crash is reported twice, by the engine's process and 2 s later by the worker; a retry set
# between the two would be crashed by the second report.
CRASH_SETTLES_SECONDS = 4.0


@dataclass
class Children:
    """Stage runs of one pipeline run."""

    client: SyncPrefectClient
    parent: UUID
    attempt: int  # run count of the parent, from 1
    log: Log
    tags: Sequence[str]
    dataset: Callable[[], str]  # its version as known when a stage is dispatched
    _crashed: set[UUID] = field(default_factory=set)

    def start(
        self, stage: str, digest: str, options: dict[str, Any], done: Callable[[], bool]
    ) -> FlowRun:
        """The stage's run: one that is on its way already, this parent's own, or a new one.

        `done` says whether the stage's artifact exists: a finished child whose artifact has been
        removed since is not taken for done.
        """
        other = self._active_run(stage, digest)
        if other is not None and not options["force"]:
            self.log.info("%s is being made by run %s: waiting for it", stage, other.name)
            return other
        key = f"{self.parent}:{stage}"
        child = self._dispatch(stage, digest, options, key)
        if child.state is None or not child.state.is_final():
            return child
        if not child.state.is_completed():
            self.log.info("%s was %s: retrying in place", stage, str(child.state.name).lower())
            return self._retry(child)
        if done() or options["force"]:
            return child
        return self._dispatch(stage, digest, options, f"{key}:{self.attempt}")

    def own(self, child: FlowRun) -> bool:
        """Whether this parent has dispatched it; else another did, and it is waited for."""
        return str(child.idempotency_key or "").startswith(f"{self.parent}:")

    def poll(self, child: FlowRun) -> FlowRun:
        """The child's state now. A crash is retried in place, once."""
        now = self.client.read_flow_run(child.id)
        if now.state is None or not now.state.is_crashed() or now.id in self._crashed:
            return now
        self._crashed.add(now.id)
        why = (now.state.message or "no reason given").partition(". ")[0]
        self.log.warning("%s crashed (%s): retrying in place", now.name, why)
        time.sleep(CRASH_SETTLES_SECONDS)
        settled = self.client.read_flow_run(now.id)
        still = settled.state is not None and settled.state.is_crashed()
        return self._retry(settled) if still else settled

    def _dispatch(self, stage: str, digest: str, options: dict[str, Any], key: str) -> FlowRun:
        recipe, forced = str(options["recipe"]), bool(options["force"])
        run = run_deployment(
            stage_deployment(stage),
            parameters={"options": options},
            flow_run_name=run_name(recipe, stage, self.dataset(), digest, forced),
            tags=["kontext", recipe, stage, artifact_tag(stage, digest), *self.tags],
            idempotency_key=key,
            timeout=0,
        )
        assert isinstance(run, FlowRun)
        return run

    def _active_run(self, stage: str, digest: str) -> FlowRun | None:
        """A run of another parent (perhaps killed since) that makes the same artifact."""
        found = self.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags={"all_": [artifact_tag(stage, digest)]}, state=ACTIVE
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=1,
        )
        return found[0] if found else None

    def _retry(self, child: FlowRun) -> FlowRun:
        state: State[Any] = Scheduled(name="AwaitingRetry", message="retried by its pipeline run")
        self.client.set_flow_run_state(child.id, state, force=True)
        return self.client.read_flow_run(child.id)


def cancel_children(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """on_cancellation hook: without it children run on for half a minute."""
    why = f"its run '{flow_run.name}' was cancelled"
    with get_client(sync_client=True) as client:
        wanted = FlowRunFilter(parent_flow_run_id={"any_": [flow_run.id]}, state=ACTIVE)
        for child in client.read_flow_runs(flow_run_filter=wanted):
            # where nothing has started yet, the server makes Cancelling a Cancelled without a cause
            waits = child.state is not None and child.state.is_scheduled()
            end: State[Any] = Cancelled(message=why) if waits else Cancelling(message=why)
            client.set_flow_run_state(child.id, end)
