"""Scheduled data refresh: ingest to index, which commits a new dataset version.

Overlap: a second refresh ends at once and says which run is at it (flows/overlap.py).
Catch-up: a refresh that was due before the last one began to read has nothing to do and says so;
so however many runs a stopped worker has missed, one brings everything up to date.
"""

from datetime import datetime
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.children import cancel_children
from flows.forms import PipelineForm, RefreshForm, StageChoice, StageName, form_of_run
from flows.names import own_name
from flows.overlap import refuse_overlap
from flows.pipeline import run_plan
from kontext.engine.run import Engine
from kontext.errors import KontextError
from kontext.store.artifacts.artifact_store import Artifact, ArtifactStore
from tasks.changes import changes_markdown, dataset_changes
from tasks.events import dataset_committed, refresh_finished
from tasks.watermark import Watermark, now, read_watermark, write_watermark
from tasks.workspace import open_artifacts, open_engine, places, resolve_recipe

LAST = "index"
DATA = {"recipe", "overrides", "store"}  # fields that every run on the same data has
CHANGES_KEY = "refresh-changes"
_SAID = 6  # changes that the run's state names; its page has them all


def _name() -> str:
    """Run name: recipe, what, and the dataset version that it goes on from."""
    return own_name(_made_name)


def _made_name() -> str:
    form = form_of_run(RefreshForm)
    try:
        dataset = resolve_recipe(form.recipe, form.overrides, form.store).shard.dataset
        found = _newest(open_artifacts(places(form.store)), dataset)
    except KontextError:  # the run itself reports what is wrong with its parameters
        return f"{form.recipe} · refresh"
    return f"{form.recipe} · refresh · {dataset}{f' after v{_version(found)}' if found else ''}"


def _newest(artifacts: ArtifactStore, dataset: str) -> Artifact | None:
    """The dataset's newest version, whether a refresh or a pipeline run has committed it."""
    found = artifacts.tagged(f"dataset@{dataset}")
    return artifacts.open(*found) if found and artifacts.exists(*found) else None


def _version(index: Artifact) -> int:
    return int(index.json("index.json").get("version", 0))


@flow(name="refresh", flow_run_name=_name, on_cancellation=[cancel_children], persist_result=False)
def refresh(options: RefreshForm = RefreshForm()) -> Any:  # noqa: B008
    """Read the sources again and commit a new dataset version.

    Args:
        options: Which data
    """
    if refused := options.refused() or refuse_overlap():
        return refused
    log = get_run_logger()
    recipe = resolve_recipe(options.recipe, options.overrides, options.store)
    engine = open_engine(recipe, places(options.store))
    dataset = engine.recipe.shard.dataset
    mark = read_watermark(engine.objects, dataset)
    due = flow_run.get_scheduled_start_time()
    if mark is not None and mark.covers(due):
        log.info("due %s, and the refresh of %s has seen later data", due, mark.started)
        return Completed(message=f"nothing to catch up: the refresh of {mark.started:%F %T} did")
    started = now()
    before = _newest(engine.artifacts, dataset)
    form = PipelineForm(
        **options.model_dump(include=DATA),
        until=StageChoice(LAST),
        force=[StageName("ingest")] if options.rescan else [],
    )
    state: State[Any] = run_plan(form, title=f"Data refresh, recipe {options.recipe}")
    if not state.is_completed():
        return state
    return _conclude(options, engine, before, started)


def _conclude(
    options: RefreshForm, engine: Engine, before: Artifact | None, started: datetime
) -> State[Any]:
    """Move the watermark, say what changed, and tell the automations."""
    dataset = engine.recipe.shard.dataset
    index = engine.artifact(LAST)
    version = _version(index)
    older = before.manifest if before else None
    changes = dataset_changes(engine.artifacts, older, index.manifest)
    since = f"compared with version {_version(before)}" if before else "the first"
    create_markdown_artifact(
        changes_markdown(f"{dataset} version {version}, {since}", changes), CHANGES_KEY, dataset
    )
    mark = Watermark(
        dataset=dataset,
        started=started,
        finished=now(),
        ingest=engine.digests()["ingest"],
        index=index.digest,
        version=version,
    )
    write_watermark(engine.objects, mark)
    if older is None or older.digest != index.digest:
        again = options.model_dump(include=DATA, mode="json")
        dataset_committed(dataset, version, options.train, again)
    refresh_finished(dataset)
    said = ", ".join(f"{c.group} {c.what} +{c.added} −{c.removed}" for c in changes[:_SAID])
    said += f" and {len(changes) - _SAID} more" if len(changes) > _SAID else ""
    return Completed(message=f"version {version}: {said or 'nothing changed'}")
