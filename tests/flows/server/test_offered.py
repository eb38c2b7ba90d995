"""Users' recipes in the form, and what the form's server refuses, against a real Prefect server."""

import logging
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import FailedRun
from prefect.flow_engine import flow_run_logger, run_flow
from prefect.settings import PREFECT_API_URL

from flows.names import deployment_name, stage_deployment
from flows.pipeline import pipeline
from flows.refresh import refresh
from flows.server.api import Api, ServerError
from flows.server.offered import offer_recipes
from flows.stages import STAGE_FLOWS
from kontext.store.objects import open_store
from kontext.store.recipes import put_recipe
from schemas.recipe_file import recipe_from
from schemas.recipes import RECIPES

pytestmark = pytest.mark.prefect


@pytest.fixture
def api(client: SyncPrefectClient) -> Api:
    return Api(PREFECT_API_URL.value().removesuffix("/api"))


def _deployments(api: Api) -> dict[str, Any]:
    return {found["name"]: found for found in api.call("POST", "/deployments/filter", {})}


def _offers(deployment: Any) -> list[str]:
    (form,) = (
        form
        for form in deployment["parameter_openapi_schema"]["definitions"].values()
        if "recipe" in form.get("properties", {})
    )
    return list(form["properties"]["recipe"]["anyOf"][0]["enum"])


def test_the_last_recipe_of_each_name_is_offered_and_older_ones_still_run(
    api: Api, toy: Path
) -> None:
    objects, before = open_store(f"file://{toy}/store"), _deployments(api)
    recipes = [recipe_from(f"from: ci\ndistill: {{seed: {n}}}", "mine") for n in range(2)]
    old, new = (put_recipe(objects, recipe) for recipe in recipes)
    offer_recipes(api, objects)
    after = _deployments(api)
    for name in ("pipeline", "refresh", "backfill", "stage-distill"):
        assert _offers(after[name]) == [*RECIPES, new]
        changed = {key for key in after[name] if after[name][key] != before[name][key]}
        assert changed <= {"parameter_openapi_schema", "updated", "last_polled"}
    assert (
        after["retention"]["parameter_openapi_schema"]
        == (before["retention"]["parameter_openapi_schema"])
    )
    for recipe in (old, new, "mine", "demo"):
        api.create_run(stage_deployment("distill"), {"options": {"recipe": recipe}}, [])
    offer_recipes(api, open_store(f"file://{toy}/other"))
    assert _offers(_deployments(api)["pipeline"]) == [*RECIPES]


@pytest.mark.parametrize(
    "options", [{"recipe": "../demo"}, {"recipe": ""}, {"overrides": ["distill"]}]
)
def test_the_server_refuses_what_can_be_no_recipe_or_override(
    options: dict[str, Any], api: Api
) -> None:
    with pytest.raises(ServerError, match=r"409 .*Validation failed"):
        api.create_run("pipeline/pipeline", {"options": options}, [])


@pytest.mark.parametrize("flow", [pipeline, refresh, STAGE_FLOWS["distill"]], ids=lambda f: f.name)
def test_a_typo_ends_the_run_in_one_line_before_anything_is_dispatched(
    flow: Any, client: SyncPrefectClient, api: Api, toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"overrides": ["distill.sede=1"]}
    deployment = stage_deployment if flow.name in STAGE_FLOWS else deployment_name
    created = api.create_run(deployment(flow.name), {"options": options}, [])
    run = client.read_flow_run(created["id"])
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(FailedRun):  # as in a run's own process
            run_flow(flow, flow_run=run, error_logger=flow_run_logger(run))  # type: ignore[arg-type]
    finally:
        logger.removeHandler(caplog.handler)
    state = client.read_flow_run(run.id).state
    assert state is not None and state.is_failed()
    assert state.message == "refused: no key 'sede' in distill; did you mean 'seed'?"
    assert [record for record in caplog.records if record.exc_info] == []
    assert any("did you mean" in record.getMessage() for record in caplog.records)
    assert api.children(str(run.id)) == []
