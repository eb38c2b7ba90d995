"""One flow per stage, generated from the stage graph.

Each is deployed on its stage's pool, so that any stage can be run, retried and scheduled alone.
The flow of stage `train-autoencoder` is the attribute `train_autoencoder` of this module.
"""

from typing import Any

from prefect import Flow, flow

from flows.forms import StageForm, form_of_run
from flows.names import planned_name
from kontext.engine.stage import Stage
from kontext.stages import STAGES
from tasks.stage import run_stage


def _name_from_parameters(stage: str) -> str:
    form = form_of_run(StageForm)
    return planned_name(form, stage, stage, form.force)


def _stage_flow(stage: Stage) -> Flow[..., Any]:
    def run(options: StageForm = StageForm()) -> Any:  # noqa: B008
        if refused := options.refused():
            return refused
        return run_stage(stage.name, **options.model_dump(mode="json"))

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
