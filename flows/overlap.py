"""One run of a deployment at a time: a second one ends at once, and says which run is at it.

A concurrency limit of the deployment would cancel it without a cause, and a killed run would hold
its slot for five minutes.
"""

from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.states import Cancelled


def refuse_overlap() -> State[Any] | None:
    """The end of this run where another of its deployment runs already; None: go on."""
    with get_client(sync_client=True) as client:
        own = client.read_flow_run(UUID(flow_run.get_id()))
        if own.deployment_id is None:
            return None
        wanted = FlowRunFilter(
            deployment_id={"any_": [own.deployment_id]}, state={"type": {"any_": ["RUNNING"]}}
        )
        running = client.read_flow_runs(flow_run_filter=wanted)
    before = [run for run in running if run.id != own.id and _since(run) < _since(own)]
    if not before:
        return None
    first = min(before, key=_since)
    since = f"{_since(first)[0]:%F %T} UTC"
    return Cancelled(message=f"the run '{first.name}' ({first.id}) is at it since {since}")


def _since(run: FlowRun) -> tuple[Any, str]:
    """When the run's present attempt began; of two at the same moment one is first."""
    assert run.state is not None
    return run.state.timestamp, str(run.id)
