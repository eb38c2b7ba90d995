"""Nightly evaluation of a tagged model: the published weights, today's code, fresh noise.

The artifacts are those of the publish manifest, taken as they are; only `evaluate` runs, under a
seed of its own, so that nothing of the model's own evaluation is replaced. A success rate below the
published one by more than the tolerance fails the run and pauses schedules. Scores by an earlier
measure of success are not compared: after an upgrade they would pause everything.
"""

from datetime import UTC, datetime
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.forms import NightlyForm, form_of_run
from flows.names import own_name
from kontext.engine.run import Engine
from kontext.engine.stage import ADDED
from kontext.errors import ArtifactError
from kontext.evaluate.categories import SCORED_CATEGORIES
from kontext.stages import STAGES
from schemas.manifest import Manifest
from schemas.recipe import Recipe
from tasks.events import evaluation_worse
from tasks.reporter import PrefectReporter, forward_logs
from tasks.workspace import open_artifacts, places

NIGHTLY_KEY = "nightly-evaluation"
_MEASURE = "success_measure"  # a metric of the stage evaluate
_OTHER_MEASURE = (
    "nothing is compared: %s was published with scores by another measure of success; run the "
    "pipeline once more, which scores and publishes it anew"
)


@flow(
    name="nightly-evaluation",
    flow_run_name=lambda: own_name(lambda: f"nightly · {form_of_run(NightlyForm).model}"),
    persist_result=False,
)
def nightly_evaluation(options: NightlyForm = NightlyForm()) -> Any:  # noqa: B008
    """Evaluate a published model again and compare with what it was published with.

    Args:
        options: Which model
    """
    log = get_run_logger()
    seed = options.seed or int(f"{datetime.now(UTC):%Y%m%d}")
    engine, published = tagged_engine(options.model, options.store, seed, str(flow_run.get_id()))
    with forward_logs(log):
        outcome = engine.run_stage("evaluate", PrefectReporter("nightly", log))
    now = outcome.manifest.metrics
    if not comparable(published.metrics, now):
        log.warning(_OTHER_MEASURE, options.model)
        return Completed(message=_OTHER_MEASURE % options.model)
    rows = compare(published.metrics, now, options.tolerance)
    create_table_artifact(rows, NIGHTLY_KEY, f"{options.model}, seed {seed}")
    return _final_state(options.model, rows)


def _final_state(model: str, rows: list[dict[str, Any]]) -> State[Any]:
    worse = [row for row in rows if row["worse"]]
    if not worse:
        return Completed(message=f"{len(rows)} figures, none worse than when it was published")
    said = ", ".join(f"{r['figure']} {r['published']:.3g} → {r['now']:.3g}" for r in worse)
    why = f"{model} got worse: {said}"
    return Failed(message=f"{why}{evaluation_worse(model, why)}")


def tagged_engine(model: str, store: str, seed: int, run: str = "") -> tuple[Engine, Manifest]:
    """An engine whose stages before evaluate are those of a published model, and its evaluation.

    Raises ArtifactError when the tag points at no publish artifact or an input of it is gone.
    """
    at = places(store)
    base = open_artifacts(at)
    publish = base.show(model).manifest
    if publish.stage != "publish":
        raise ArtifactError(f"'{model}' is an artifact of {publish.stage}, not a published model")
    published = base.open("evaluate", publish.inputs["evaluate"]).manifest
    pins = dict(published.inputs)
    sections: dict[str, Any] = {"name": publish.recipe}
    for manifest in (published, *(base.open(*pin).manifest for pin in pins.items())):
        if section := STAGES[manifest.stage].section:
            sections[section] = {k: v for k, v in manifest.config.items() if k not in ADDED}
    sections["evaluate"]["seed"] = seed
    recipe = Recipe.model_validate(sections)
    engine = Engine(recipe, at.store, at.catalog, at.home, run=run, stages=STAGES, pins=pins)
    return engine, published


def comparable(published: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two evaluations mean the same by success. Earlier ones do not say what they meant."""
    return published.get(_MEASURE) == now.get(_MEASURE)


def compare(
    published: dict[str, Any], now: dict[str, Any], tolerance: float
) -> list[dict[str, Any]]:
    """One row per success rate in both: published, now, and whether it fell beyond tolerance."""
    rows = []
    for name in sorted(set(published) & set(now)):
        before, after = published[name], now[name]
        if name.removeprefix("teacher/") in SCORED_CATEGORIES and None not in (before, after):
            worse = float(after) < float(before) - tolerance
            rows.append({"figure": name, "published": before, "now": after, "worse": worse})
    return rows
