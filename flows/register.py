"""Registers work pools, deployments and the zombie automation: `python -m flows.register`.

Runs as its own process, so that the command line never imports prefect. Everything is an upsert.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import shlex
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import Flow, get_client
from prefect.automations import AutomationCore
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    StateType,
)
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.settings import SERVER_SECONDS, ZOMBIE_SECONDS
from flows.stages import STAGE_FLOWS
from kontext.stages import STAGES
from tasks.markdown import artifact_link, page_key

# A pipeline waits for its stages: with both in one limited queue, two pipelines would hold all
# slots and wait for ever. So the limits sit on the stage queues, and pipelines have their own.
QUEUES: dict[str, dict[str, int | None]] = {
    "cpu": {"stages": 2, "pipelines": None},
    "gpu": {"stages": 1},
}
ZOMBIES = "Crash runs whose heartbeat stopped"


def _job_variables(polite: bool) -> dict[str, Any]:
    """Job variables of a deployment; `polite` leaves the cores to the server when it needs them.

    An explicit command starts the engine directly, without the worker's resolver process (90 MB
    and a second of imports). Output is not streamed: a run that prints into a dead worker's pipe
    would die of it; logs reach the server by its API.
    """
    engine = f"{shlex.quote(sys.executable)} -m prefect.engine"
    return {
        "command": f"nice -n 5 {engine}" if polite else engine,
        "working_dir": str(Path.cwd()),
        "stream_output": False,
    }


async def deployments() -> list[RunnerDeployment]:
    """One deployment per flow."""
    from flows.pipeline import pipeline
    from flows.refresh import refresh

    made = [
        await _deployment(pipeline, "flows.pipeline.pipeline", "cpu", "pipelines", _PIPELINE_TEXT),
        await _deployment(refresh, "flows.refresh.refresh", "cpu", "pipelines", _REFRESH_TEXT),
    ]
    for name, flow in STAGE_FLOWS.items():
        stage = STAGES[name]
        text = f"{stage.summary}.\n\nInputs: {', '.join(stage.inputs) or 'none'}. " + (
            f"[Latest summary]({artifact_link(page_key(name))})"
        )
        entrypoint = f"flows.stages.{name.replace('-', '_')}"
        made.append(await _deployment(flow, entrypoint, stage.pool, "stages", text))
    return made


_PIPELINE_TEXT = (
    "All stages from images to a published model. Finished stages are reused; a retried run "
    "continues where it stopped.\n\n"
    f"[Latest summary]({artifact_link('pipeline-summary')}) · "
    f"[lineage]({artifact_link('pipeline-lineage')}) · [all artifacts](/v2/artifacts)"
)
_REFRESH_TEXT = "The data stages, ingest to index: put a schedule on it to keep a dataset fresh."


async def _deployment(
    flow: Flow[..., Any], entrypoint: str, pool: str, queue: str, text: str
) -> RunnerDeployment:
    limit = None
    if flow.name == "refresh":  # a stopped worker would otherwise run every late one
        limit = ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        )
    made = await flow.ato_deployment(
        name="kontext",
        concurrency_limit=limit,
        description=text,
        version=importlib.metadata.version("kontext"),
        tags=["kontext", pool],
        work_pool_name=pool,
        work_queue_name=queue,
        job_variables=_job_variables(polite=queue == "stages"),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(made, RunnerDeployment)
    made.entrypoint = entrypoint
    return made


async def _await_server(client: PrefectClient) -> None:
    """The server may still be migrating its database."""
    limit = time.monotonic() + SERVER_SECONDS
    while (error := await client.api_healthcheck()) is not None:
        if time.monotonic() > limit:
            raise error
        await asyncio.sleep(0.1)


async def _ensure_pools(client: PrefectClient) -> None:
    template = ProcessWorker.get_default_base_job_template()
    for pool, queues in QUEUES.items():
        try:
            made = WorkPoolCreate(name=pool, type="process", base_job_template=template)
            await client.create_work_pool(made)
        except ObjectAlreadyExists:
            await client.update_work_pool(pool, WorkPoolUpdate(is_paused=False))
        for queue, limit in queues.items():
            try:
                found = await client.read_work_queue_by_name(queue, work_pool_name=pool)
            except ObjectNotFound:
                found = await client.create_work_queue(queue, work_pool_name=pool)
            await client.update_work_queue(found.id, concurrency_limit=limit)


def zombie_automation() -> AutomationCore:
    """Marks a run Crashed when its heartbeat stops (its worker and process are gone).

    Without it such a run stays Running for ever and holds its queue's slot.
    """
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.*"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=ZOMBIE_SECONDS),
    )
    action = ChangeFlowRunState(
        state=StateType.CRASHED, name="Crashed", message="no heartbeat: its process is gone"
    )
    return AutomationCore(
        name=ZOMBIES,
        description=f"No heartbeat for {ZOMBIE_SECONDS} s: the machine or the worker died",
        trigger=trigger,
        actions=[action],
    )


async def _ensure_automation(client: PrefectClient) -> None:
    for found in await client.read_automations_by_name(ZOMBIES):
        await client.delete_automation(found.id)
    await client.create_automation(zombie_automation())


async def main() -> None:
    """Register everything. Raises prefect's errors, which `kontext up` shows."""
    async with get_client() as client:
        await _await_server(client)
        await _ensure_pools(client)
        await _ensure_automation(client)
    for deployment in await deployments():
        await deployment.aapply()


if __name__ == "__main__":
    asyncio.run(main())
