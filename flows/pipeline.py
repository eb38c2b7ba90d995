"""The end-to-end flow: reuse what is done, dispatch the rest to the stage deployments."""

import time
from dataclasses import replace
from typing import Any
from uuid import UUID

from prefect import flow, get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.backoff import next_pause
from flows.children import Children, cancel_children
from flows.forms import PipelineForm, form_of_run
from flows.names import add_tags, dataset_label, dataset_tag, own_name, planned_name
from kontext.engine.graph import of_run
from kontext.errors import ArtifactError, KontextError
from kontext.stages import STAGES
from tasks.markdown import one_line, page_key
from tasks.pages import page_of, put_page
from tasks.report import export_report, report_link
from tasks.request import CONTINUE, Request, outcome_line, planned_stages
from tasks.story import notable
from tasks.summary import SUMMARY_KEY, Row, summary
from tasks.workspace import open_engine, places, resolve_recipe

POLL_SECONDS = 4.0  # the longest pause between two questions


class PipelineRun:
    """One pass over the plan: a small scheduler that dispatches stages whose inputs are done."""

    def __init__(self, form: PipelineForm, title: str, client: SyncPrefectClient) -> None:
        run = str(flow_run.get_id())
        self._form = form
        self._title = title
        self._client = client
        self._log = get_run_logger()
        at = places(form.store)
        recipe = resolve_recipe(form.recipe, form.overrides, form.store)
        self._home = at.home
        self._engine = open_engine(recipe, at, run, form.versions)
        dataset = dataset_tag(self._engine)
        add_tags("kontext", str(form.recipe), dataset)
        self._children = Children(
            client,
            UUID(run),
            flow_run.get_run_count() or 1,
            self._log,
            tags=[dataset],
            dataset=lambda: dataset_label(self._engine),
        )
        only, start, until = (
            "" if choice == "all" else str(choice) for choice in (form.only, form.start, form.until)
        )
        plan = planned_stages(self._engine, only, start, until, tuple(map(str, form.force)))
        self._waiting = [step.stage for step in plan if not step.reused]
        self._active: dict[str, FlowRun] = {}
        self._report = self._report_page = ""
        self.rows = self._first_rows({step.stage: step.why for step in plan})
        self._graph = of_run(STAGES, self.rows)

    def _first_rows(self, planned: dict[str, str]) -> dict[str, Row]:
        """Every stage before anything has run; `planned` says why a stage is to be made."""
        rows = {}
        for status in self._engine.status():
            row = rows[status.stage] = Row(status.stage, status.digest)
            if status.stage in self._waiting:
                row.note = planned[status.stage]
                self._log.info("%s: to be made (%s)", status.stage, planned[status.stage])
            elif status.state == "done":
                if status.stage in planned:
                    self._engine.reuse(status.stage)
                self._use_artifact(row, "reused")
                self._log.info("%s: reused (%s)", status.stage, status.digest)
            else:
                row.state = "stale" if status.state == "stale" else "skipped"
                row.note = status.why
                assert status.stage not in planned
        return rows

    def execute(self) -> State[Any]:
        """Run to the end and say how it ended."""
        self._publish()
        pause = first = min(0.5, POLL_SECONDS)
        while self._active or self._ready():
            changed = [self._start(name) for name in self._ready()]
            changed += [self._check(name) for name in list(self._active)]
            if any(changed):
                self._publish()
            if self._active:
                pause = next_pause(pause, any(changed), first, POLL_SECONDS)
                time.sleep(pause)
        self._export()
        self._publish()
        return self._final_state()

    def _ready(self) -> list[str]:
        """Waiting stages whose inputs are all there."""
        return [
            name
            for name in self._waiting
            if all(self.rows[i].state in ("ran", "reused") for i in self._graph[name].inputs)
        ]

    def _start(self, name: str) -> bool:
        self._waiting.remove(name)
        row = self.rows[name]
        row.digest = digest = self._engine.digests()[name]  # a forced input has changed it
        options = self._form.model_dump(
            include={"recipe", "overrides", "store", "versions"}, mode="json"
        )
        options["force"] = name in self._form.force
        child = self._children.start(
            name, digest, options, lambda: self._engine.artifacts.exists(name, digest)
        )
        row.state, row.run_id = "running", str(child.id)
        self._active[name] = child
        if not self._children.own(child):
            row.note = f"made by the run '{child.name}', which was on its way"
        self._log.info("%s: dispatched as run '%s'", name, child.name)
        return True

    def _check(self, name: str) -> bool:
        child = self._children.poll(self._active[name])
        state = child.state
        if state is None or not state.is_final():
            return False
        del self._active[name]
        row = self.rows[name]
        row.digest = self._engine.digests()[name]
        if state.is_completed() and self._engine.artifacts.exists(name, row.digest):
            self._use_artifact(row, "ran")
            row.page_id = page_of(self._client, str(child.id), page_key(name))
            row.note = one_line(str(state.message or ""))
            self._log.info("%s: done (%s)", name, row.digest)
        else:
            row.state = "cancelled" if state.is_cancelled() else "failed"
            said = one_line(str(state.message or state.name))
            row.error = said.partition(CONTINUE)[0]
            if state.is_completed():
                row.error = "its run made another artifact: the code changed meanwhile; run again"
            self._log.error("%s: %s: %s", name, row.state, row.error)
        return True

    def _use_artifact(self, row: Row, state: str) -> None:
        manifest = self._engine.artifacts.open(row.stage, row.digest).manifest
        row.state, row.seconds, row.metrics = state, manifest.seconds, manifest.metrics
        row.note = f"made {manifest.created_at[:16].replace('T', ' ')} UTC"
        if state == "reused" and (page := page_of(self._client, manifest.run, page_key(row.stage))):
            row.run_id, row.page_id = manifest.run, page

    def _export(self) -> None:
        row = self.rows.get("evaluate")
        if row is None or row.state not in ("ran", "reused"):
            return
        artifact = self._engine.artifacts.open("evaluate", row.digest)
        try:
            self._report = str(export_report(artifact, self._home))
            self._report_page = report_link(row.digest)
        except ArtifactError as error:
            self._log.warning("no report: %s", error)

    def _publish(self) -> None:
        rows = list(self.rows.values())
        text = summary(
            self._title, rows, self._graph, self._report, self._report_page, self._command()
        )
        put_page(self._client, str(flow_run.get_id()), SUMMARY_KEY, text, self._title)

    def _final_state(self) -> State[Any]:
        for row in self.rows.values():
            if row.state in ("failed", "cancelled"):
                said = f"stage '{row.stage}' {row.state}: {row.error}"
                return Failed(message=f"{said}{CONTINUE}{self._command()}")
        states = [row.state for row in self.rows.values()]
        report = f"; report: {self._report}" if self._report else ""
        said = outcome_line(states.count("ran"), states.count("reused"))
        stories = [(r.stage, r.note) for r in self.rows.values() if r.state == "ran"]
        return Completed(message=f"{said}{notable(stories)}{report}")

    def _command(self) -> str:
        """The command that goes on where this run stopped."""
        form = self._form.model_dump(mode="json")
        kept = {name: form[name] for name in ("recipe", "overrides", "versions")}
        parts = {k: "" if form[k] == "all" else form[k] for k in ("only", "start", "until")}
        store = "" if places().store == places(form["store"]).store else form["store"]
        request = Request(**kept, only=parts["only"], start=parts["start"], until=parts["until"])
        return replace(request, store=store).command()


def _name() -> str:
    """Run name: recipe, what, dataset version, and the last stage's digest, which covers all."""
    return own_name(_made_name)


def _made_name() -> str:
    form = form_of_run(PipelineForm)
    part = f" · only {form.only}" if form.only != "all" else ""
    part += f" · from {form.start}" if form.start != "all" else ""
    part += f" · until {form.until}" if form.until != "all" else ""
    return planned_name(form, f"pipeline{part}", list(STAGES)[-1])


@flow(name="pipeline", flow_run_name=_name, on_cancellation=[cancel_children], persist_result=False)
def pipeline(options: PipelineForm = PipelineForm()) -> Any:  # noqa: B008
    """From images to a published model. Stages whose artifact exists are reused.

    Args:
        options: What to run
    """
    if refused := options.refused():
        return refused
    return run_plan(options, title=f"Pipeline, recipe {options.recipe}")


def run_plan(options: PipelineForm, title: str) -> State[Any]:
    """Plan and run. Must be called inside a flow run. A bad request is refused in one line."""
    with get_client(sync_client=True) as client:
        try:
            planned = PipelineRun(options, title, client)
        except KontextError as error:
            return Failed(message=f"refused: {error}")
        return planned.execute()
