"""One flow per stage, generated from the stage graph.

Each is deployed on its stage's pool, so that any stage can be run, retried and scheduled alone.
The flow of stage `train-autoencoder` is the attribute `train_autoencoder` of this module.
"""

from typing import Any

from prefect import Flow, flow
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.forms import StageForm, form_of_run
from flows.names import add_tags, artifact_tag, dataset_tag, own_name, planned_name
from kontext.engine.stage import Stage
from kontext.stages import STAGES
from tasks.request import Request
from tasks.stage import run_stage, stage_failure
from tasks.workspace import open_engine, places, resolve_recipe


def _name_from_parameters(stage: str) -> str:
    form = form_of_run(StageForm)
    return own_name(lambda: planned_name(form, stage, stage, form.force))


def _tag(stage: str, options: StageForm) -> None:
    """Tags that a pipeline gives the stages it dispatches: runs are found by their artifact."""
    if any(tag.startswith(f"{stage}/") for tag in flow_run.get_tags()):
        return
    recipe = resolve_recipe(options.recipe, options.overrides, options.store)
    engine = open_engine(recipe, places(options.store), versions=options.versions)
    made = artifact_tag(stage, engine.digests()[stage])
    add_tags("kontext", str(options.recipe), stage, made, dataset_tag(engine))


def _stage_flow(stage: Stage) -> Flow[..., Any]:
    def run(options: StageForm = StageForm()) -> Any:  # noqa: B008
        if refused := options.refused():
            return refused
        form = options.model_dump(mode="json")
        try:
            _tag(stage.name, options)
            made = run_stage(stage.name, **form)
        except Exception as error:  # noqa: BLE001 - its task has logged it; the state says it all
            form.pop("force")
            request = Request(**form, until=stage.name)
            return Failed(message=stage_failure(stage.name, request, error))
        return Completed(message=made["story"], data=made)

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
