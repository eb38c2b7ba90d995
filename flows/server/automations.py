"""Automations that `kontext up` creates; each is plainly named and made anew at registration."""

from datetime import timedelta
from uuid import UUID

from prefect.automations import AutomationCore
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, PauseDeployment, RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture

from flows.server.api import HEARTBEAT
from flows.server.settings import fresh_days, zombie_seconds
from tasks.events import DATASET_COMMITTED, PAUSE, PAUSING, REFRESH_FINISHED, RESUME

ZOMBIES = "Crash runs whose heartbeat stopped"
TRAIN = "Train on a new dataset version"
WARN = "Warn when no refresh has finished for days"
MEND = "Mend what a crashed run left"
_SCHEDULED = ("refresh", "pipeline", "nightly-evaluation", "retention")


def automations(deployed: dict[str, UUID]) -> list[AutomationCore]:
    """All automations, given the ids of the deployments by flow name."""
    return [
        zombie_automation(),
        train_automation(deployed["pipeline"]),
        pause_automation([deployed[name] for name in _SCHEDULED]),
        warn_automation(deployed["warn"]),
        mend_automation(deployed),
    ]


def zombie_automation() -> AutomationCore:
    """Marks a run Crashed when its heartbeat stops (its worker and process are gone).

    Without it such a run stays Running for ever and holds its queue's slot. A run is watched from
    its start, which the server itself records: one that is killed at once sends no heartbeat.
    """
    seconds = zombie_seconds()
    trigger = EventTrigger(
        after={HEARTBEAT, "prefect.flow-run.Running"},
        expect={"prefect.flow-run.*"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        within=timedelta(seconds=seconds),
    )
    action = ChangeFlowRunState(
        state=StateType.CRASHED, name="Crashed", message="no heartbeat: its process is gone"
    )
    return AutomationCore(
        name=ZOMBIES,
        description=f"No heartbeat for {seconds:g} s: the machine or the worker died",
        trigger=trigger,
        actions=[action],
    )


def train_automation(pipeline: UUID) -> AutomationCore:
    """A refresh with `train` on that commits a version starts a pipeline run on it."""
    template = {"__prefect_kind": "jinja", "template": "{{ event.payload.options | tojson }}"}
    parameters = {"options": {"__prefect_kind": "json", "value": template}}
    return AutomationCore(
        name=TRAIN,
        description="For refreshes with 'Train on a new version'; finished stages are reused",
        trigger=EventTrigger(expect={DATASET_COMMITTED}, match={"kontext.train": "yes"}),
        actions=[RunDeployment(source="selected", deployment_id=pipeline, parameters=parameters)],
    )


def pause_automation(deployments: list[UUID]) -> AutomationCore:
    """A canary that got through, or a published model that got worse, stops what is scheduled.

    Other gates stop their own run and nothing else: an experiment may diverge.
    """
    return AutomationCore(
        name=PAUSE,
        description=f"`kontext status` says which run and why; resume: `{RESUME}`",
        trigger=EventTrigger(expect=set(PAUSING)),
        actions=[PauseDeployment(source="selected", deployment_id=each) for each in deployments],
    )


def warn_automation(warn: UUID) -> AutomationCore:
    """Once a dataset is refreshed at all: no refresh for N days starts a run that fails loudly."""
    days = fresh_days()
    trigger = EventTrigger(
        after={REFRESH_FINISHED},
        expect={REFRESH_FINISHED},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        within=timedelta(days=days),
    )
    parameters = {"message": f"no data refresh has finished for {days:g} days"}
    return AutomationCore(
        name=WARN,
        description=f"No finished refresh for {days:g} days (KONTEXT_FRESH_DAYS)",
        trigger=trigger,
        actions=[RunDeployment(source="selected", deployment_id=warn, parameters=parameters)],
    )


def mend_automation(deployed: dict[str, UUID]) -> AutomationCore:
    """A run whose process was killed: its tasks get an end, and a stage is retried once."""
    mender = deployed["after-crash"]  # never set off by its own crash
    watched = [f"prefect.deployment.{each}" for each in deployed.values() if each != mender]
    trigger = EventTrigger(
        expect={"prefect.flow-run.Crashed"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.id": watched},
    )
    parameters = {"run": {"__prefect_kind": "jinja", "template": "{{ event.resource.id }}"}}
    return AutomationCore(
        name=MEND,
        description="Ends the dead process's tasks; a stage without a pipeline is retried once",
        trigger=trigger,
        actions=[RunDeployment(source="selected", deployment_id=mender, parameters=parameters)],
    )
