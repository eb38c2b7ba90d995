"""Scheduled data refresh: ingest to index, which commits a new dataset version."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.children import cancel_children
from flows.forms import PipelineForm, RefreshForm, StageName
from flows.pipeline import run_plan

LAST = "index"


def _name() -> str:
    from prefect.runtime import flow_run

    given = (flow_run.get_parameters() or {}).get("options")
    form = given if isinstance(given, RefreshForm) else RefreshForm.model_validate(given or {})
    return f"{form.recipe} · refresh"


@flow(
    name="refresh",
    flow_run_name=_name,
    on_cancellation=[cancel_children],
    persist_result=False,
)
def refresh(options: RefreshForm = RefreshForm()) -> Any:  # noqa: B008
    """Read the sources again and commit a new dataset version.

    Args:
        options: Which data
    """
    form = PipelineForm(
        recipe=options.recipe,
        overrides=options.overrides,
        force=[StageName("ingest")] if options.rescan else [],
        store=options.store,
    )
    return run_plan(form, title=f"Data refresh, recipe {options.recipe}", last=LAST)
