"""Names of deployments and runs.

Prefect's UI lists deployments by name, ten a page: whole flows have their flow's name, and stages
stand together behind them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from kontext.errors import ArtifactError, KontextError
from tasks.workspace import open_engine, places, resolve_recipe

if TYPE_CHECKING:
    from flows.forms import PipelineForm, StageForm
    from kontext.engine.run import Engine

_UI_NAME = re.compile(
    "(Awesome|Rustic|Small|Gorgeous|Fantastic|Sleek|Intelligent|Unbranded|Refined|Licensed|Generic|"
    "Practical|Ergonomic|Handcrafted|Tasty|Handmade|Incredible)-.{1,6}"
)
# Prefect's filter of runs that are on their way
ACTIVE = {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}

# what a state says of a run that its user has ended with the server
STOPPED = "stopped by kontext down"


def deployment_name(flow: str) -> str:
    """`flow/deployment` of a whole flow, as Prefect's API wants it."""
    return f"{flow}/{flow}"


def stage_deployment(stage: str) -> str:
    """`flow/deployment` of a stage alone."""
    return f"{stage}/stage-{stage}"


def artifact_tag(stage: str, digest: str) -> str:
    """Tag that finds the runs of one artifact."""
    return f"{stage}/{digest}"


def dataset_tag(engine: Engine) -> str:
    """Tag that finds the runs on one dataset: its name and the digest of its index."""
    return f"{engine.recipe.shard.dataset}@{engine.digests().get('index', '')[:8]}"


def add_tags(*wanted: str) -> None:
    """Give this run tags that it lacks: one started in the UI has those of its deployment only."""
    from prefect import get_client
    from prefect.runtime import flow_run

    run, tags = flow_run.get_id(), flow_run.get_tags()
    if run and not set(wanted) <= set(tags):
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(run), tags=sorted({*tags, *wanted}))


def dataset_label(engine: Engine) -> str:
    """The dataset version a run works on: `demo@v3`, or its tag as long as it is not committed."""
    try:
        version = engine.artifact("index").json("index.json")["version"]
    except ArtifactError:
        return dataset_tag(engine)
    return f"{engine.recipe.shard.dataset}@v{version}"


def run_name(recipe: str, what: str, dataset: str, digest: str, forced: bool = False) -> str:
    """Name of a run. A forced run gets a digest of its own when it starts."""
    return f"{recipe} · {what} · {dataset} · {'again' if forced else digest[:8]}"


def own_name(make: Callable[[], str]) -> str:
    """The name that somebody typed for this run, or that its parent gave it; else what `make` says.

    Without a name typed, the server (coolname) and the UI's form (an adjective) make one up.
    """
    from prefect.runtime import flow_run

    given = flow_run.get_name() or ""
    return make() if not given or is_made_up(given) else given


def is_made_up(name: str) -> bool:
    """Whether nobody has chosen this name of a run."""
    words = name.split("-")
    return bool(_UI_NAME.fullmatch(name)) or (len(words) == 2 and set(words) <= _server_words())


@cache
def _server_words() -> frozenset[str]:
    from coolname.data import config  # Prefect's own source of names

    parts: dict[str, Any] = config
    return frozenset(word for part in parts.values() for word in part.get("words", ()))


def planned_name(
    form: PipelineForm | StageForm, what: str, stage: str, forced: bool = False
) -> str:
    """Name of a run before it starts. The digest of `stage` shows what it will make."""
    try:
        recipe = resolve_recipe(form.recipe, form.overrides, form.store)
        engine = open_engine(recipe, places(form.store), versions=form.versions)
        return run_name(form.recipe, what, dataset_label(engine), engine.digests()[stage], forced)
    except KontextError:  # the run itself reports what is wrong with its parameters
        return f"{form.recipe} · {what}"
