"""Backfill: one pipeline run per source of a recipe, the missing or failed ones only.

A partition is one source. It is run as the recipe with that source alone, into the dataset
`<dataset>-<partition>`, so that partitions neither wait for nor spoil each other.
"""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from prefect import flow, get_client, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.children import cancel_children
from flows.forms import BackfillForm, Wanted, form_of_run
from flows.names import add_tags, deployment_name, own_name
from kontext.data.sources.folder import FolderSource
from kontext.errors import RecipeError
from schemas.own_names import slug
from schemas.recipe import Recipe
from tasks.markdown import one_line, run_link, table
from tasks.workspace import open_engine, places, resolve_recipe

BACKFILL_KEY = "backfill"
POLL_SECONDS = 2.0


@dataclass
class Partition:
    """One source of the recipe, and how its run went."""

    name: str
    overrides: list[str]
    state: str = "waiting"  # done, waiting, skipped, or the state of its run
    run: FlowRun | None = None


def partitions(recipe: Recipe) -> dict[str, list[str]]:
    """Partition name -> the overrides that make the recipe run that source alone."""
    found: dict[str, list[str]] = {}
    counts: Counter[str] = Counter()
    for source in recipe.ingest.sources:
        name = str(source.kind)
        if isinstance(source, FolderSource):
            name = f"folder-{PurePath(source.path).name}"
        counts[name] += 1
        name = f"{name}-{counts[name]}" if counts[name] > 1 else name
        sources = json.dumps([source.model_dump(mode="json")])
        dataset = f"{recipe.shard.dataset}-{slug(name)}"
        own = [f"shard.dataset={dataset}", "as_default=false"]
        found[name] = [f"ingest.sources={sources}", *own]
    return found


def partition_tag(recipe: Recipe, name: str) -> str:
    """Tag that finds the runs of one partition."""
    return f"partition:{recipe.shard.dataset}-{name}"


@flow(
    name="backfill",
    flow_run_name=lambda: own_name(lambda: f"{form_of_run(BackfillForm).recipe} · backfill"),
    on_cancellation=[cancel_children],
    persist_result=False,
)
def backfill(options: BackfillForm = BackfillForm()) -> Any:  # noqa: B008
    """Run the sources of a recipe one by one, those that are missing or failed.

    Args:
        options: Which sources
    """
    if refused := options.refused():
        return refused
    recipe = resolve_recipe(options.recipe, options.overrides, options.store)
    add_tags("kontext", str(options.recipe))
    with get_client(sync_client=True) as client:
        todo = plan_partitions(client, options, recipe)
        key = f"{flow_run.get_id()}:{flow_run.get_run_count() or 1}"
        run_partitions(client, options, recipe, todo, key)
    create_markdown_artifact(page_text(todo), BACKFILL_KEY, recipe.shard.dataset)
    return final_state(todo)


def plan_partitions(
    client: SyncPrefectClient, options: BackfillForm, recipe: Recipe
) -> list[Partition]:
    """Every partition, with those that are not wanted already `done` or `skipped`.

    Raises RecipeError for a partition the recipe does not have.
    """
    known = partitions(recipe)
    if unknown := sorted(set(options.partitions) - set(known)):
        raise RecipeError(f"no partition '{unknown[0]}' (known: {', '.join(known)})")
    found = []
    for name, overrides in known.items():
        part = Partition(name, [*options.overrides, *overrides])
        made = resolve_recipe(options.recipe, part.overrides, options.store)
        engine = open_engine(made, places(options.store))
        last = list(engine.digests())[-1] if options.until == "all" else str(options.until)
        if options.partitions and name not in options.partitions:
            part.state = "skipped"
        elif options.which != Wanted.all and engine.artifacts.exists(last, engine.digests()[last]):
            part.state = "done"
        elif options.which in (Wanted.missing, Wanted.failed):
            failed = last_run_failed(client, partition_tag(recipe, name))
            part.state = "waiting" if failed == (options.which == Wanted.failed) else "skipped"
        found.append(part)
    return found


def last_run_failed(client: SyncPrefectClient, tag: str) -> bool:
    """Whether the newest run with this tag failed or crashed."""
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(tags={"all_": [tag]}),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    return bool(found) and found[0].state_type in (StateType.FAILED, StateType.CRASHED)


def run_partitions(
    client: SyncPrefectClient,
    options: BackfillForm,
    recipe: Recipe,
    todo: list[Partition],
    key: str,
) -> None:
    """Dispatch waiting partitions, `at_once` at a time, until all have ended."""
    log = get_run_logger()
    left = [part for part in todo if part.state == "waiting"]
    names = ", ".join(part.name for part in left) or "none"
    log.info("%d of %d partitions to run: %s", len(left), len(todo), names)
    while left:
        for part in left[: options.at_once]:
            if part.run is None:
                part.run = _dispatch(options, recipe, part, key)
                log.info("partition %s: started", part.name)
            part.run = client.read_flow_run(part.run.id)
            state = part.run.state
            if state is not None and state.is_final():
                part.state = "done" if state.is_completed() else str(state.name).lower()
                log.info("partition %s: %s", part.name, one_line(f"{state.name} {state.message}"))
        left = [part for part in left if part.state == "waiting"]
        if left:
            time.sleep(POLL_SECONDS)


def _dispatch(options: BackfillForm, recipe: Recipe, part: Partition, key: str) -> FlowRun:
    form = options.model_dump(include={"recipe", "until", "store"}, mode="json")
    run = run_deployment(
        deployment_name("pipeline"),
        parameters={"options": {**form, "overrides": part.overrides}},
        tags=["kontext", str(options.recipe), partition_tag(recipe, part.name)],
        idempotency_key=f"{key}:{part.name}",
        timeout=0,
    )
    assert isinstance(run, FlowRun)
    return run


def page_text(todo: list[Partition]) -> str:
    """The backfill's page: one line per partition."""
    rows = [
        (p.name, p.state, f"[{p.run.name}]({run_link(p.run.id)})" if p.run else "—") for p in todo
    ]
    return f"# Backfill\n\n{table(('partition', 'state', 'run'), rows)}\n"


def final_state(todo: list[Partition]) -> State[Any]:
    """Failed where a partition did not make it."""
    bad = [part.name for part in todo if part.state not in ("done", "skipped")]
    if bad:
        return Failed(message=f"{len(bad)} of {len(todo)} partitions failed: {', '.join(bad)}")
    ran = sum(part.run is not None for part in todo)
    return Completed(message=f"{ran} partitions ran, {len(todo) - ran} were done or left out")
