"""One flow per stage, generated from the stage graph.

Each is deployed on its stage's pool, so that any stage can be run, retried and scheduled alone.
The flow of stage `train-autoencoder` is the attribute `train_autoencoder` of this module.
"""

from typing import Any

from prefect import Flow, flow

from flows.forms import StageForm, form_of_run
from flows.names import dataset_label, run_name
from kontext.engine.stage import Stage
from kontext.errors import KontextError
from kontext.stages import STAGES
from tasks.stage import run_stage
from tasks.workspace import open_engine, places, resolve_recipe


def _name_from_parameters(stage: str) -> str:
    """Name of a run from the form. The digest shows which artifact it makes."""
    form = form_of_run(StageForm)
    try:
        recipe = resolve_recipe(form.recipe, form.overrides)
        engine = open_engine(recipe, places(form.store), versions=form.versions)
        digest = engine.digests()[stage]
        return run_name(form.recipe, stage, dataset_label(engine), digest, form.force)
    except KontextError:  # the run itself reports what is wrong with its parameters
        return f"{form.recipe} · {stage}"


def _stage_flow(stage: Stage) -> Flow[..., Any]:
    def run(options: StageForm = StageForm()) -> dict[str, Any]:  # noqa: B008
        return run_stage(
            stage.name,
            str(options.recipe),
            options.overrides,
            options.force,
            options.store,
            options.versions,
        )

    run.__name__ = run.__qualname__ = stage.name.replace("-", "_")
    run.__module__ = __name__
    run.__doc__ = f"{stage.summary[0].upper()}{stage.summary[1:]}."
    return flow(
        name=stage.name,
        flow_run_name=lambda: _name_from_parameters(stage.name),
        persist_result=False,
        validate_parameters=True,
    )(run)


STAGE_FLOWS: dict[str, Flow[..., Any]] = {
    name: _stage_flow(stage) for name, stage in STAGES.items()
}
globals().update({name.replace("-", "_"): made for name, made in STAGE_FLOWS.items()})
