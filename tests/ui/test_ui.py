"""A person's day in the Prefect UI: run, watch, look, mend, schedule."""

import re
import shutil
import time
from typing import Any

from flows.names import deployment_name
from flows.server.api import Api
from flows.server.offered import offer_recipes
from kontext.store.objects import open_store
from kontext.store.recipes import put_recipe
from schemas.recipe_file import recipe_from
from tests.test_end_to_end import SMALL
from tests.ui.conftest import GATE_OFF, Ui, kontext

MINUTES = 30


def test_the_pipeline_runs_from_its_form_to_pictures_and_lineage(ui: Ui) -> None:
    api = ui.api
    run = submit(ui, api, SMALL)
    assert ended(api, run)["state_type"] == "COMPLETED"
    ui.open(f"/v2/runs/flow-run/{run}")
    ui.page.get_by_text("Completed", exact=True).first.wait_for()
    ui.shot("run")
    look_at_artifacts(ui, run)


def test_a_failed_stage_is_retried_on_its_page_and_the_pipeline_goes_on(ui: Ui) -> None:
    """After the test above: all other stages are done."""
    api = ui.api
    blocked = ui.home / "scratch" / "publish"  # a file where the stage wants a folder
    shutil.rmtree(blocked, ignore_errors=True)
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("in the way")
    run = submit(ui, api, (*SMALL, f"publish.name=again-{int(time.time())}"), only="publish")
    assert ended(api, run)["state_type"] == "FAILED"
    (stage,) = api.children(run)
    blocked.unlink()
    retry(ui, stage["id"])
    assert ended(api, stage["id"], runs=2)["state_type"] == "COMPLETED"
    retry(ui, run)
    assert ended(api, run, runs=2)["state_type"] == "COMPLETED"
    (again,) = api.children(run)
    assert (again["id"], again["run_count"]) == (stage["id"], 2)


def test_the_form_offers_ones_own_recipe_and_says_what_a_typo_meant(ui: Ui) -> None:
    store = open_store(f"file://{ui.home}/store")
    own = put_recipe(store, recipe_from("from: ci", "mine"))
    offer_recipes(ui.api, store)
    run = submit(ui, ui.api, ("distill.sede=1",), recipe=own)
    assert ended(ui.api, run)["state"]["message"] == (
        "refused: no key 'sede' in distill; did you mean 'seed'?"
    )
    ui.open(f"/v2/runs/flow-run/{run}")
    ui.page.get_by_text("Finished in state Failed").first.wait_for()
    ui.shot("typo")
    assert ui.page.get_by_text("did you mean 'seed'?").count()
    assert not ui.page.get_by_text("Traceback").count()


def submit(ui: Ui, api: Api, overrides: tuple[str, ...], only: str = "", recipe: str = "ci") -> str:
    """Fill the pipeline's form and submit it; the id of the run."""
    page = ui.page
    ui.open(f"/v2/deployments/deployment/{api.deployment_id(deployment_name('pipeline'))}/run")
    choose(page, "Recipe", recipe)
    for number, override in enumerate(overrides, start=1):  # box 0 is the run's name
        page.get_by_role("button", name="Add item").first.click()
        page.locator("main").get_by_role("textbox").nth(number).fill(override)
    if only:
        choose(page, "Only", only)
    ui.shot("form")
    known = {run["id"] for run in runs_of(api, "pipeline")}
    press_submit(ui)
    (run,) = [run["id"] for run in runs_of(api, "pipeline") if run["id"] not in known]
    ui.open(f"/v2/runs/flow-run/{run}")
    page.get_by_role("tab", name="Logs").wait_for()
    page.goto("about:blank")  # a page of a run draws all the time, which takes a core from it
    return str(run)


def press_submit(ui: Ui) -> None:
    """Until the form is left. A server that is busy answers 503, and the form says so and stays."""
    from playwright.sync_api import TimeoutError as Waited

    for number in range(3):
        ui.page.get_by_role("button", name="Submit").click()
        try:
            ui.page.wait_for_url(lambda url: not url.endswith("/run"), timeout=60_000)
            return
        except Waited:
            ui.shot(f"submit-again-{number}")
    raise AssertionError("the form was not taken, see the screenshots")


def runs_of(api: Api, flow: str) -> list[Any]:
    """All runs of a deployment, oldest first."""
    return api.runs({"deployment_id": {"any_": [api.deployment_id(deployment_name(flow))]}})


def choose(page: Any, title: str, value: str) -> None:
    """Pick a value of a select field."""
    page.get_by_role("button", name=f"Select {title}").click()
    page.get_by_role("option", name=value, exact=True).click()


def ended(api: Api, run: str, runs: int = 1) -> Any:
    """The run once its `runs`-th attempt is over."""
    limit = time.monotonic() + 60 * MINUTES
    while time.monotonic() < limit:
        found = api.run(run)
        if found["run_count"] >= runs and found["state_type"] in ("COMPLETED", "FAILED", "CRASHED"):
            return found
        time.sleep(1)
    raise AssertionError(f"run {run} did not end in {MINUTES} minutes")


def look_at_artifacts(ui: Ui, run: str) -> None:
    """The run's tab of artifacts, its summary with the lineage, and a stage's picture."""
    page = ui.page
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_role("heading", name="pipeline-summary").wait_for()
    ui.shot("run-artifacts")
    page.get_by_role("heading", name="pipeline-summary").click()
    entry = page.locator('a[href*="/artifacts/artifact/"]').first
    entry.click()
    page.get_by_role("heading", name="Pipeline, recipe ci").first.wait_for()
    diagram = page.locator('main svg[id^="mermaid"]').first
    diagram.wait_for()
    for stage in ("ingest", "distill", "publish"):
        assert stage in (diagram.text_content() or "")
    ui.shot("summary")
    ui.open("/v2/artifacts/key/stage-evaluate")
    page.locator('a[href*="/artifacts/artifact/"]').first.click()
    page.get_by_role("heading", name="evaluate: ran").wait_for()
    ui.shot("stage")
    page.get_by_role("link", name=re.compile("held-out text edits")).first.click()
    picture = page.locator('main img[src^="data:image/"]').first
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 100
    ui.shot("picture")


def retry(ui: Ui, run: str) -> None:
    """Menu, Retry, confirm."""
    ui.open(f"/v2/runs/flow-run/{run}")
    ui.page.get_by_role("tab", name="Logs").wait_for()
    ui.page.get_by_role("button", name="Open menu").first.click()
    ui.page.get_by_role("menuitem", name="Retry").click()
    ui.shot("retry")
    ui.page.get_by_role("alertdialog").get_by_role("button", name="Retry").click()


def test_a_schedule_fires_until_a_canary_pauses_it_and_again_once_it_is_resumed(ui: Ui) -> None:
    """An interval of one minute on the retention deployment, made and looked at in the UI."""
    api, page = ui.api, ui.page
    deployment = api.deployment_id(deployment_name("retention"))
    schedule_every_minute(ui, deployment)
    fired(api, deployment, 2)
    ui.open(f"/v2/deployments/deployment/{deployment}")
    page.get_by_text("Completed", exact=True).first.wait_for()
    ui.shot("scheduled")

    paused_by = let_a_canary_through(ui)
    ui.open(f"/v2/runs/flow-run/{paused_by}")
    page.get_by_text("schedules paused").first.wait_for()
    ui.shot("canary")
    ui.open(f"/v2/deployments/deployment/{deployment}")
    switch = page.get_by_role("switch").first
    assert switch.get_attribute("aria-checked") == "false"
    ui.shot("paused")
    told = [x for x in kontext(ui.home, "status").splitlines() if x.startswith("retention ")]
    assert [x for x in told if "canaries" in x and x.endswith("kontext resume")], told
    known = len(scheduled_runs(api, deployment))
    time.sleep(90)  # more than one interval
    assert len(scheduled_runs(api, deployment)) == known

    switch.click()  # one deployment in the UI, the others with the command
    assert "nightly-evaluation: resumed" in kontext(ui.home, "resume")
    fired(api, deployment, known + 1)
    assert "kontext resume" not in kontext(ui.home, "status")
    for schedule in api.call("GET", f"/deployments/{deployment}/schedules"):
        api.call("DELETE", f"/deployments/{deployment}/schedules/{schedule['id']}")


def schedule_every_minute(ui: Ui, deployment: str) -> None:
    """Deployment's page, Schedule, value 1, Save."""
    page = ui.page
    ui.open(f"/v2/deployments/deployment/{deployment}")
    page.get_by_role("button", name="Schedule", exact=True).click()
    page.get_by_role("dialog").get_by_label("Value").fill("1")
    ui.shot("schedule")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    page.get_by_text(re.compile("Every minute|Every 1 minute")).first.wait_for()


def scheduled_runs(api: Api, deployment: str) -> list[Any]:
    """The deployment's completed runs that a schedule started."""
    wanted = {
        "deployment_id": {"any_": [deployment]},
        "state": {"type": {"any_": ["COMPLETED"]}},
    }
    return [run for run in api.runs(wanted) if run["auto_scheduled"]]


def fired(api: Api, deployment: str, times: int) -> None:
    """Wait until the schedule has started `times` runs that completed."""
    limit = time.monotonic() + 60 * MINUTES
    while len(scheduled_runs(api, deployment)) < times:
        assert time.monotonic() < limit, f"the schedule did not fire {times} times"
        time.sleep(1)


def let_a_canary_through(ui: Ui) -> str:
    """Run ingest with a hash gate that finds nothing; the id of the run, which failed."""
    flag = ui.home / GATE_OFF
    flag.touch()
    try:
        run = submit(ui, ui.api, (*SMALL, "ingest.canaries=5"), only="ingest")
        assert "canaries: nothing of this run is kept" in ended(ui.api, run)["state"]["message"]
    finally:
        flag.unlink()
    return run
