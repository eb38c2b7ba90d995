"""One stage as one Prefect task: engine.run_stage with logs, progress and a summary artifact."""

from collections.abc import Sequence
from typing import Any

import httpx
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from kontext.engine.stage import StageOutcome
from kontext.errors import GateError
from schemas.manifest import Manifest
from tasks.events import asset_made, gate_failed
from tasks.markdown import artifact_link, duration, number, page_key, size, table
from tasks.reporter import Log, PrefectReporter, Published, forward_logs
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
    Returns stage, digest, reused, seconds and metrics.
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
    publish_summary(outcome, reporter.published, log)
    return {
        "stage": stage,
        "digest": outcome.digest,
        "reused": outcome.reused,
        "seconds": outcome.seconds,
        "metrics": outcome.manifest.metrics,
    }


def publish_summary(outcome: StageOutcome, published: list[Published], log: Log) -> None:
    """The stage's page: figures, notes, what it published, what it was made from."""
    text = stage_summary(outcome.manifest, outcome.reused, published)
    try:
        create_markdown_artifact(
            text, key=page_key(outcome.stage), description=f"{outcome.stage}/{outcome.digest}"
        )
    except httpx.HTTPError as error:
        log.warning("the summary of %s was not published: %s", outcome.stage, error)


def stage_summary(manifest: Manifest, reused: bool, published: list[Published]) -> str:
    """Markdown page of one stage run."""
    stored = size(sum(file.size for file in manifest.files))
    state = "reused" if reused else "ran"
    parts = [
        f"# {manifest.stage}: {state}",
        f"Artifact `{manifest.stage}/{manifest.digest}` · made in {duration(manifest.seconds)} "
        f"on {manifest.created_at[:16].replace('T', ' ')} UTC · files: {len(manifest.files)}, "
        f"{stored} · recipe {manifest.recipe}",
    ]
    if manifest.metrics:
        rows = [(name, number(value)) for name, value in manifest.metrics.items()]
        parts.append("## Figures\n\n" + table(("figure", "value"), rows))
    pages = [s for s in published if s.kind != "progress"]
    if pages:
        listed = [f"- [{s.caption}]({s.link}) ({s.kind})" for s in pages]
        parts.append("## Published\n\n" + "\n".join(listed))
    if manifest.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in manifest.notes))
    if manifest.inputs:
        made_from = [
            (f"[{name}]({artifact_link(page_key(name))})", f"`{digest}`")
            for name, digest in manifest.inputs.items()
        ]
        parts.append("## Made from\n\n" + table(("stage", "artifact"), made_from))
    return "\n\n".join(parts) + "\n"
