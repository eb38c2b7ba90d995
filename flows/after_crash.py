"""What follows a crash: a killed process says nothing itself, so an automation starts this flow.

Tasks of the dead attempt get an end, and a stage that was started by itself is retried, once. The
stages of a pipeline are retried by their pipeline (flows/children.py).
"""

import time
from typing import Any
from uuid import UUID

from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import TaskRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Crashed, Scheduled

from flows.children import CRASH_SETTLES_SECONDS
from flows.names import STOPPED
from kontext.stages import STAGES

RETRIED = "its process died: retried once"


@flow(name="after-crash", flow_run_name="after a crash · {run}", persist_result=False)
def after_crash(run: str) -> Any:
    """Mend what a killed run left behind. Started by an automation.

    Args:
        run: Id of the run, or of the event's resource
    """
    time.sleep(CRASH_SETTLES_SECONDS)
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(UUID(run.rpartition(".")[2]))
        ended = end_tasks(client, found)
        return Completed(message=f"'{found.name}': {ended} tasks ended; {_retry(client, found)}")


def end_tasks(client: SyncPrefectClient, run: FlowRun) -> int:
    """Mark the tasks of attempts that are over Crashed; returns how many there were."""
    wanted = TaskRunFilter(
        flow_run_id={"any_": [run.id]},
        state={"type": {"any_": ["RUNNING", "PENDING"]}},
        subflow_runs={"exists_": False},  # those follow the state of the run that they stand for
    )
    alive = run.run_count if run.state is not None and run.state.is_running() else None
    dead = [
        task
        for task in client.read_task_runs(task_run_filter=wanted)
        if task.flow_run_run_count != alive
    ]
    for task in dead:
        end: Any = Crashed(message="the process of its run died")
        client.set_task_run_state(task.id, end, force=True)
    return len(dead)


def _retry(client: SyncPrefectClient, run: FlowRun) -> str:
    """Have a stage run again where nobody else does; returns what was done, or why nothing."""
    if run.state is None or not run.state.is_crashed():
        return "it goes on already"
    if run.state.message == STOPPED:
        return f"{STOPPED}, not retried"
    if run.parent_task_run_id is not None:
        return "its pipeline retries it"
    if client.read_flow(run.flow_id).name not in STAGES:
        return "only stages are retried"
    states = sorted(client.read_flow_run_states(run.id), key=lambda state: state.timestamp)
    if any(state.message == RETRIED for state in states):
        return "it was retried before"
    began = max(i for i, state in enumerate(states) if state.is_scheduled())
    if any(state.is_cancelling() or state.is_cancelled() for state in states[began:]):
        return "it was being cancelled"
    state: Any = Scheduled(name="AwaitingRetry", message=RETRIED)
    client.set_flow_run_state(run.id, state, force=True)
    return "retried"
