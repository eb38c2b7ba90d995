"""`kontext status`: what is done, what is not and why, and what is up."""

import typer

from flows.cli.shared import opened
from flows.cli.shared.options import Json, Panel, Recipe, Sets, Store
from flows.cli.shared.show import print_json, print_table

PLACE = (Panel.RUN, 2)


def status(
    recipe: Recipe = "demo", overrides: Sets = None, store: Store = "", as_json: Json = False
) -> None:
    """Show which stages are done, stale, missing or running, and why; schedules; services."""
    from flows.server import serve
    from flows.server.pause import pauses
    from flows.server.status import schedules, stage_states

    engine = opened.engine(recipe, overrides, store)
    at = opened.at(store)
    api = serve.connect(at)
    stages = [vars(stage) for stage in stage_states(engine, api)]
    planned = schedules(api) if api else []
    paused = [vars(pause) for pause in pauses(api)] if api else []
    services = [vars(service) for service in serve.status(at)]
    if as_json:
        found = {"stages": stages, "schedules": planned, "paused": paused, "services": services}
        print_json(found)
        return
    print_table([[*row.values()] for row in stages], ("stage", "digest", "state", "why"))
    typer.echo("")
    print_table([[*row.values()] for row in planned], ("schedule", "state", "when", "next (UTC)"))
    if planned:
        typer.echo("")
    headers = ("paused", "since (UTC)", "by", "page", "why", "resume with")
    print_table([[*row.values()] for row in paused], headers)
    if paused:
        typer.echo("")
    print_table([[*row.values()] for row in services], ("service", "state", "where"))
