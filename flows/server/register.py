"""Registers work pools, deployments and automations: `python -m flows.server.register`.

Runs as its own process, so that the command line never imports prefect. Everything is an upsert.
Nothing is asked of the server before a line of input, or its end, says that it is the right one.
"""

import asyncio
import contextlib
import importlib.metadata
import shlex
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.names import deployment_name, stage_deployment
from flows.server.automations import automations
from flows.server.settings import gpu_runs
from flows.stages import STAGE_FLOWS
from kontext.stages import STAGES
from tasks.markdown import artifact_link, page_key

# A pipeline waits for its stages: with both in one limited queue, two pipelines would hold all
# slots and wait for ever. So that limit sits on the stage queue, and pipelines have their own. In
# pool gpu nothing waits for anything: the whole pool is limited, to one training
# (flows.server.settings).
QUEUES: dict[str, dict[str, int | None]] = {
    "cpu": {"stages": 2, "pipelines": None},
    "gpu": {"stages": None},
}


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
    made = []
    for flow, text in _whole_flows():
        heavy = flow.name == "nightly-evaluation"  # samples images: never beside a training
        pool, queue = ("gpu", "stages") if heavy else ("cpu", "pipelines")
        made.append(await _deployment(flow, deployment_name(flow.name), pool, queue, text))
    for name, flow in STAGE_FLOWS.items():
        stage = STAGES[name]
        text = (
            f"{stage.summary}.\n\nInputs: {', '.join(stage.inputs) or 'none'}. "
            f"[Latest summary]({artifact_link(page_key(name))})"
        )
        made.append(await _deployment(flow, stage_deployment(name), stage.pool, "stages", text))
    return made


def _whole_flows() -> list[tuple[Flow[..., Any], str]]:
    """The flows that are not one stage, with their descriptions."""
    from flows.after_crash import after_crash
    from flows.backfill import BACKFILL_KEY, backfill
    from flows.nightly import NIGHTLY_KEY, nightly_evaluation
    from flows.pipeline import pipeline
    from flows.refresh import CHANGES_KEY, refresh
    from flows.retention import RETENTION_KEY, retention
    from flows.warn import WARNING_KEY, warn

    def latest(key: str, text: str) -> str:
        return f"{text}\n\n[Latest page]({artifact_link(key)}) · [all artifacts](/v2/artifacts)"

    return [
        (pipeline, _PIPELINE_TEXT),
        (refresh, latest(CHANGES_KEY, _REFRESH_TEXT)),
        (backfill, latest(BACKFILL_KEY, "Missing or failed sources.")),
        (nightly_evaluation, latest(NIGHTLY_KEY, _NIGHTLY_TEXT)),
        (retention, latest(RETENTION_KEY, "What no tag needs goes.")),
        (warn, latest(WARNING_KEY, "Started by automations: shows a warning.")),
        (after_crash, "Started by automations: ends a killed run's tasks, retries a lone stage."),
    ]


_PIPELINE_TEXT = (
    "All stages from images to a published model. Finished stages are reused; a retried run "
    "continues where it stopped.\n\n"
    f"[Latest summary]({artifact_link('pipeline-summary')}), with report and lineage · "
    "[all artifacts](/v2/artifacts)"
)
_REFRESH_TEXT = (
    "The data stages, ingest to index: put a schedule on it to keep a dataset fresh. One at a "
    "time; a run that is late because the worker was down is skipped once another has caught up."
)
_NIGHTLY_TEXT = "A published model again, on the same items; fails when it is worse than it was."


async def _deployment(
    flow: Flow[..., Any], name: str, pool: str, queue: str, text: str
) -> RunnerDeployment:
    made = await flow.ato_deployment(
        name=name.partition("/")[2],
        concurrency_limit=None,  # takes an earlier version's away, see flows/overlap.py
        description=text,
        version=importlib.metadata.version("kontext"),
        tags=["kontext", pool],
        work_pool_name=pool,
        work_queue_name=queue,
        job_variables=_job_variables(polite=queue != "pipelines"),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(made, RunnerDeployment)
    return made


async def _ensure_pools(client: PrefectClient) -> None:
    template = ProcessWorker.get_default_base_job_template()
    for pool, queues in QUEUES.items():
        with contextlib.suppress(ObjectAlreadyExists):
            made = WorkPoolCreate(name=pool, type="process", base_job_template=template)
            await client.create_work_pool(made)
        limits = gpu_runs() if pool == "gpu" else None
        await client.update_work_pool(
            pool, WorkPoolUpdate(is_paused=False, concurrency_limit=limits)
        )
        for queue, limit in queues.items():
            try:
                found = await client.read_work_queue_by_name(queue, work_pool_name=pool)
            except ObjectNotFound:
                found = await client.create_work_queue(queue, work_pool_name=pool)
            await client.update_work_queue(found.id, concurrency_limit=limit)


async def _ensure_automations(client: PrefectClient, deployed: dict[str, UUID]) -> None:
    for wanted in automations(deployed):
        for found in await client.read_automations_by_name(wanted.name):
            await client.delete_automation(found.id)
        await client.create_automation(wanted)


async def _remove_strays(client: PrefectClient, wanted: set[UUID]) -> None:
    """Deployments of ours that today's code does not have."""
    for found in await client.read_deployments():
        if "kontext" in (found.tags or []) and found.id not in wanted:
            await client.delete_deployment(found.id)


async def main() -> None:
    """Register everything. Raises prefect's errors, which `kontext up` shows."""
    async with get_client() as client:
        await _ensure_pools(client)
        paused = {d.name for d in await client.read_deployments() if d.paused}
        deployed = {}
        for each in await deployments():
            each.paused = each.name in paused  # or a pause would end with every new version
            deployed[each.name] = await each.aapply()
        await _remove_strays(client, set(deployed.values()))
        await _ensure_automations(client, deployed)


if __name__ == "__main__":
    sys.stdin.readline()
    asyncio.run(main())
