"""Submits one run of a deployment and waits for its end."""

import time
from typing import Any

from flows.cli.shared import opened
from flows.cli.shared.show import print_result, say
from kontext.errors import KontextError
from tasks.markdown import run_link


def submit(flow: str, options: dict[str, Any], store: str, as_json: bool) -> None:
    """Run the flow on the server, which is started where it is down, and print how it ended.

    `options` are fields of the flow's form, without the store. Raises KontextError when the run
    did not complete.
    """
    from flows.names import deployment_name
    from flows.server.api import TERMINAL
    from flows.server.offered import offer_recipes
    from flows.server.serve import server_api, up
    from flows.server.settings import SERVER_SECONDS
    from flows.server.watch import LogTail
    from kontext.store.objects import open_store
    from schemas.recipes import DEFAULT, RECIPES

    at = opened.at(store, write=True)
    api = server_api(at, up(at, say=say), patience=SERVER_SECONDS)
    if options.get("recipe", DEFAULT) not in RECIPES:
        offer_recipes(api, open_store(at.store))
    if "overrides" in options:
        options = {**options, "overrides": opened.absolute_sources(options["overrides"])}
    parameters = {"options": {**options, "store": store}}
    run = api.create_run(deployment_name(flow), parameters, ["kontext", flow])
    say(f"run     {api.url}{run_link(run['id'])}")
    log = LogTail(api, lambda text: say(text.plain))
    while run["state_type"] not in TERMINAL:
        time.sleep(1.0)
        log.show({run["id"]: flow})
        run = api.run(run["id"])
    log.show_rest({run["id"]: flow}, run["id"])
    message = str((run.get("state") or {}).get("message") or run["state_name"])
    if run["state_type"] != "COMPLETED":
        raise KontextError(f"{flow}: {message.splitlines()[0]}")
    result = {"state": run["state_type"], "message": message, "run": run["id"]}
    print_result(result, message, as_json)
