"""Events that automations listen to: an artifact was made, a dataset grew, a gate stopped a run.

The open source server has no asset pages, so asset events serve as triggers only; lineage is in
the manifests. What stops a stage is an event by its kind (`kontext.canary.failed`,
`kontext.training.diverged`, `kontext.gate.failed`); only those in PAUSING pause schedules.
"""

from typing import Any

import httpx

from kontext.errors import CanaryError, GateError

ASSET_MADE = "prefect.asset.materialization.succeeded"
DATASET_COMMITTED = "kontext.dataset.committed"
REFRESH_FINISHED = "kontext.refresh.finished"
CANARY_FAILED = f"kontext.{CanaryError.kind}"
EVALUATION_WORSE = "kontext.evaluation.worse"
SCHEDULES_RESUMED = "kontext.schedules.resumed"

PAUSING = (CANARY_FAILED, EVALUATION_WORSE)
PAUSE = "Pause schedules after a failed canary"  # the automation that does so
RESUME = "kontext resume"


def asset_made(stage: str, digest: str, recipe: str) -> None:
    """A stage made a new artifact. Its asset is `kontext://<stage>`."""
    labels = {"kontext.engine.stage": stage, "kontext.digest": digest, "kontext.recipe": recipe}
    _emit(ASSET_MADE, f"kontext://{stage}", labels)


def dataset_committed(dataset: str, version: int, train: bool, options: dict[str, Any]) -> None:
    """A refresh committed a dataset version. `options` are a pipeline run's that trains on it."""
    labels = {"kontext.dataset": dataset, "kontext.train": "yes" if train else "no"}
    payload = {"version": version, "options": options}
    _emit(DATASET_COMMITTED, f"kontext://dataset/{dataset}", labels, payload)


def refresh_finished(dataset: str) -> None:
    """A refresh ended well, with news or without."""
    _emit(REFRESH_FINISHED, f"kontext://refresh/{dataset}", {"kontext.dataset": dataset})


def gate_failed(stage: str, error: GateError) -> str:
    """A gate stopped a stage; which kind of gate is in the event's name.

    Returns what this pauses (see `_pauses`), for the message of the run.
    """
    event = f"kontext.{error.kind}"
    _emit(event, f"kontext://gate/{stage}", {"kontext.stage": stage}, _cause(str(error)))
    return _pauses(event)


def evaluation_worse(model: str, why: str) -> str:
    """A published model got worse. Returns what this pauses, as `gate_failed`."""
    labels = {"kontext.model": model}
    _emit(EVALUATION_WORSE, f"kontext://evaluation/{model}", labels, _cause(why))
    return _pauses(EVALUATION_WORSE)


def _cause(why: str) -> dict[str, str]:
    """What `kontext status` and notifications say of an event: which run, and why."""
    from prefect.runtime import flow_run

    run = flow_run.get_id()
    return {"why": why, "run": flow_run.get_name() or "", "run_id": str(run) if run else ""}


def _pauses(event: str) -> str:
    """`; schedules paused: …`: what the server's automation does on this event.

    Empty where the event pauses nothing, or somebody has switched the automation off.
    """
    from prefect import get_client
    from prefect.events.actions import PauseDeployment
    from prefect.events.schemas.automations import EventTrigger

    if event not in PAUSING:
        return ""
    try:
        with get_client(sync_client=True) as client:
            found = client.read_automations_by_name(PAUSE)
            names = {each.id: each.name for each in client.read_deployments()}
    except httpx.HTTPError as error:  # what stopped the run must still be said
        return f"; whether schedules are paused is not known: {type(error).__name__}"
    paused = [
        names[action.deployment_id]
        for automation in found
        if automation.enabled and isinstance(automation.trigger, EventTrigger)
        if event in automation.trigger.expect
        for action in automation.actions
        if isinstance(action, PauseDeployment) and action.deployment_id in names
    ]
    return f"; schedules paused: {', '.join(paused)}; resume with: {RESUME}" if paused else ""


def _emit(
    event: str, resource: str, labels: dict[str, str], payload: dict[str, Any] | None = None
) -> None:
    from prefect.events import emit_event  # here, because `kontext status` asks for the names above

    about = {"prefect.resource.id": resource, "prefect.resource.name": resource, **labels}
    emit_event(event=event, resource=about, payload=payload or {})
