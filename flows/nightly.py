"""Nightly evaluation of a tagged model: the published weights, seeds and settings, today's code.

The artifacts are those of the publish manifest, taken as they are; only `evaluate` runs, under a
number of its own (`evaluate.night`), so that nothing of the model's own evaluation is replaced. It
scores the very items of that evaluation, and both are compared item by item. A success rate that is
worse by more than the tolerance fails the run and pauses schedules. Scores by an earlier measure of
success are not compared: after an upgrade they would pause everything.
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
from kontext.evaluate.versions import Versions, compare_again
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import Artifact
from schemas.recipe import Recipe
from tasks.events import evaluation_worse
from tasks.reporter import PrefectReporter, forward_logs
from tasks.workspace import open_artifacts, places

NIGHTLY_KEY = "nightly-evaluation"
ITEMS = "items.parquet"
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
    night = options.night or int(f"{datetime.now(UTC):%Y%m%d}")
    engine, published = tagged_engine(options.model, options.store, night, str(flow_run.get_id()))
    with forward_logs(log):
        outcome = engine.run_stage("evaluate", PrefectReporter("nightly", log))
    if not comparable(published.manifest.metrics, outcome.manifest.metrics):
        log.warning(_OTHER_MEASURE, options.model)
        return Completed(message=_OTHER_MEASURE % options.model)
    now = engine.artifacts.open("evaluate", outcome.digest)
    found = compare_again(published.table(ITEMS), now.table(ITEMS), options.tolerance)
    if not found.differences:
        log.warning("nothing is compared: %s", found.why)
        return Completed(message=f"nothing is compared: {found.why}")
    if found.items < found.before:
        log.warning("of %d published items %d were scored again", found.before, found.items)
    rows = rows_of(found)
    create_table_artifact(rows, NIGHTLY_KEY, f"{options.model}, night {night}: {found.line}")
    return _final_state(options.model, rows)


def _final_state(model: str, rows: list[dict[str, Any]]) -> State[Any]:
    worse = [row for row in rows if row["worse"]]
    if not worse:
        return Completed(message=f"{len(rows)} figures, none worse than when it was published")
    said = ", ".join(f"{r['figure']} {r['published']:.3g} → {r['now']:.3g}" for r in worse)
    why = f"{model} got worse: {said}"
    return Failed(message=f"{why}{evaluation_worse(model, why)}")


def tagged_engine(model: str, store: str, night: int, run: str = "") -> tuple[Engine, Artifact]:
    """An engine whose stages before evaluate are those of a published model, and its evaluation.

    The engine's recipe is the one that the model was evaluated with, but for the night's number.
    Raises ArtifactError when the tag points at no publish artifact or an input of it is gone.
    """
    at = places(store)
    base = open_artifacts(at)
    publish = base.show(model).manifest
    if publish.stage != "publish":
        raise ArtifactError(f"'{model}' is an artifact of {publish.stage}, not a published model")
    published = base.open("evaluate", publish.inputs["evaluate"])
    pins = dict(published.manifest.inputs)
    made = (publish, published.manifest, *(base.open(*pin).manifest for pin in pins.items()))
    sections: dict[str, Any] = {"name": publish.recipe}
    for manifest in made:
        if section := STAGES[manifest.stage].section:
            sections[section] = {k: v for k, v in manifest.config.items() if k not in ADDED}
    sections["evaluate"]["night"] = night
    recipe = Recipe.model_validate(sections)
    engine = Engine(recipe, at.store, at.catalog, at.home, run=run, stages=STAGES, pins=pins)
    return engine, published


def comparable(published: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two evaluations mean the same by success. Earlier ones do not say what they meant."""
    return published.get(_MEASURE) == now.get(_MEASURE)


def rows_of(found: Versions) -> list[dict[str, Any]]:
    """One row per success rate of both models together: published, now, and the verdict."""
    return [
        {
            "figure": name.partition("/")[2],
            "published": each.before,
            "now": each.after,
            "worse": each.fell,
            "verdict": each.words,
            "low": each.interval.low,
            "high": each.interval.high,
            "lost": each.lost,
            "gained": each.gained,
            "detectable": each.detectable,
        }
        for name, each in found.differences.items()
    ]
