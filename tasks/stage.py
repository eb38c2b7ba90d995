"""One stage as one Prefect task: engine.run_stage with logs, progress and a summary artifact."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from prefect import get_client, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from kontext.engine.run import Engine
from kontext.errors import GateError
from kontext.stages import STAGES
from schemas.manifest import Manifest
from tasks.events import asset_made, gate_failed
from tasks.markdown import artifact_link, duration, figures, one_line, page_key, size, table
from tasks.pages import page_of, put_page
from tasks.reporter import Log, PrefectReporter, Published, forward_logs
from tasks.request import CONTINUE, Request
from tasks.story import stage_story
from tasks.workspace import open_engine, places, resolve_recipe


@task(
    name="run stage",
    task_run_name="{stage}",
    cache_policy=NO_CACHE,  # whether a stage is done is asked of its manifest
    persist_result=False,
)
def run_stage(
    stage: str,
    recipe: str,
    overrides: list[str],
    force: bool = False,
    store: str = "",
    versions: Sequence[str] = (),
) -> dict[str, Any]:
    """Make or reuse one stage's artifact and publish what it has to show.

    Emits an asset event for a new artifact, and one for a gate that stopped the stage.
    Returns stage, digest, reused, seconds, metrics, and the story of how it came to be.
    """
    log = get_run_logger()
    reporter = PrefectReporter(stage, log)
    with forward_logs(log):
        chosen, run = resolve_recipe(recipe, overrides, store), str(flow_run.get_id())
        engine = open_engine(chosen, places(store), run, versions)
        try:
            outcome = engine.run_stage(stage, reporter, force=force)
        except GateError as error:
            error.args = (f"{error}{gate_failed(stage, error)}",)
            raise
    if not outcome.reused:
        asset_made(stage, outcome.digest, recipe)
    story = stage_story(outcome, reporter)
    pages = _input_pages(engine, outcome.manifest, log)
    text = stage_summary(outcome.manifest, outcome.reused, reporter.published, story, pages)
    _publish_page(stage, text, f"{stage}/{outcome.digest}", log)
    return {
        "stage": stage,
        "digest": outcome.digest,
        "reused": outcome.reused,
        "seconds": outcome.seconds,
        "metrics": outcome.manifest.metrics,
        "story": story,
    }


def stage_failure(stage: str, request: Request, error: Exception) -> str:
    """Publish the page of a stage that failed; returns its cause and the next command, one line."""
    cause = one_line(f"{type(error).__name__}: {error}")
    log = get_run_logger()
    text = f"# {stage}: FAILED\n\n> {cause}\n\nContinue with `{request.command()}`, or *Retry*.\n"
    _publish_page(stage, text, f"{stage}: failed", log)
    return f"{cause}{CONTINUE}{request.command()}"


def _publish_page(stage: str, text: str, description: str, log: Log) -> None:
    try:
        with get_client(sync_client=True) as client:
            put_page(client, str(flow_run.get_id()), page_key(stage), text, description)
    except httpx.HTTPError as error:
        log.warning("the summary of %s was not published: %s", stage, error)


def stage_summary(
    manifest: Manifest,
    reused: bool,
    published: list[Published],
    story: str,
    pages: Mapping[str, str],
) -> str:
    """Markdown page of one stage run. `pages` are the ids of its inputs' pages, by stage."""
    stored = size(sum(file.size for file in manifest.files))
    state = "reused" if reused else "ran"
    parts = [
        f"# {manifest.stage}: {state}",
        f"{story[0].upper()}{story[1:]}.",
        f"Artifact `{manifest.stage}/{manifest.digest}` · made in {duration(manifest.seconds)} "
        f"on {manifest.created_at[:16].replace('T', ' ')} UTC · files: {len(manifest.files)}, "
        f"{stored} · recipe {manifest.recipe}",
    ]
    if manifest.metrics:
        words = STAGES[manifest.stage].figures if manifest.stage in STAGES else {}
        listed = [f"- {line}" for line in figures(manifest.metrics, words)]
        parts.append("## Figures\n\n" + "\n".join(listed))
    shown = [s for s in published if s.kind != "progress"]
    if shown:
        listed = [f"- [{s.caption}]({s.link}) ({s.kind})" for s in shown]
        parts.append("## Published\n\n" + "\n".join(listed))
    if manifest.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in manifest.notes))
    if manifest.inputs:
        made_from = [
            (_linked(name, pages.get(name, "")), f"`{digest}`")
            for name, digest in manifest.inputs.items()
        ]
        parts.append("## Made from\n\n" + table(("stage", "artifact"), made_from))
    return "\n\n".join(parts) + "\n"


def _linked(stage: str, page: str) -> str:
    return f"[{stage}]({artifact_link(page_key(stage), page)})" if page else stage


def _input_pages(engine: Engine, manifest: Manifest, log: Log) -> dict[str, str]:
    """Ids of the pages of the runs that made an artifact's inputs, by stage."""
    made = {s: engine.artifacts.open(s, digest).manifest for s, digest in manifest.inputs.items()}
    try:
        with get_client(sync_client=True) as client:
            return {
                stage: page_of(client, each.run, page_key(stage)) for stage, each in made.items()
            }
    except httpx.HTTPError as error:
        log.warning("the pages of the inputs were not found: %s", error)
        return {}
