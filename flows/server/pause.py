"""Schedules that are paused: since when, by which run, why; and resuming them."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.server.api import Api
from kontext.errors import KontextError
from tasks.events import PAUSING, RESUME, SCHEDULES_RESUMED
from tasks.markdown import run_link

BY_HAND = "somebody, in the UI"
_EVENTS = 50  # the newest that are looked at: the server keeps a page


@dataclass(frozen=True)
class Pause:
    """Why a deployment's schedules wait."""

    deployment: str
    since: str  # UTC; empty where no event says so
    by: str  # the run
    page: str  # of that run; empty for none
    why: str
    resume: str = RESUME


def deployments(api: Api) -> list[Any]:
    """All deployments of ours, by name."""
    body = {"deployments": {"tags": {"all_": ["kontext"]}}, "sort": "NAME_ASC"}
    return list(api.call("POST", "/deployments/filter", body))


def pauses(api: Api) -> list[Pause]:
    """One for each paused deployment. A newer event of its resuming voids an older cause."""
    paused = [found["name"] for found in deployments(api) if found["paused"]]
    events = _events(api) if paused else []
    return [_pause(api, name, events) for name in paused]


def resume(api: Api, names: list[str]) -> list[Pause]:
    """Let the schedules of these deployments (none: of all that are paused) run again.

    Returns what they were paused by. Raises KontextError for one that is not paused.
    """
    found = {pause.deployment: pause for pause in pauses(api)}
    if unknown := [name for name in names if name not in found]:
        known = ", ".join(found) or "nothing"
        raise KontextError(f"'{unknown[0]}' is not paused (paused: {known})")
    chosen = [found[name] for name in names] if names else list(found.values())
    ids = {each["name"]: each["id"] for each in deployments(api)}
    for pause in chosen:
        api.call("POST", f"/deployments/{ids[pause.deployment]}/resume_deployment")
    if chosen:
        _tell_resumed(api, [pause.deployment for pause in chosen])
    return chosen


def _events(api: Api) -> list[Any]:
    wanted = {"event": {"name": [*PAUSING, SCHEDULES_RESUMED]}, "order": "DESC"}
    body = {"filter": wanted, "limit": _EVENTS}
    return list(api.call("POST", "/events/filter", body)["events"])


def _pause(api: Api, deployment: str, events: list[Any]) -> Pause:
    for event in events:  # newest first
        said = {"run": "", "run_id": "", "why": "", "deployments": [], **event["payload"]}
        if event["event"] in PAUSING:
            since = str(event["occurred"])[:16].replace("T", " ")
            page = f"{api.url}{run_link(said['run_id'])}" if said["run_id"] else ""
            by = said["run"] or event["resource"]["prefect.resource.name"]
            return Pause(deployment, since, by, page, said["why"])
        if deployment in said["deployments"]:
            break
    return Pause(deployment, "", BY_HAND, "", "no event says why")


def _tell_resumed(api: Api, names: list[str]) -> None:
    event = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": SCHEDULES_RESUMED,
        "resource": {"prefect.resource.id": "kontext://schedules"},
        "payload": {"deployments": names},
    }
    api.call("POST", "/events", [event])
