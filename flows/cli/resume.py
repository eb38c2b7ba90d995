"""`kontext resume`: lets paused schedules run again."""

from typing import Annotated

import typer

from flows.cli.shared.options import Json, Panel
from flows.cli.shared.show import print_result

PLACE = (Panel.SERVER, 7)


def resume(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Deployments, e.g. refresh. By default all that are paused."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let paused schedules run again, once what paused them is mended."""
    from flows.server import pause, serve
    from kontext.errors import KontextError

    api = serve.connect()
    if api is None:
        raise KontextError("no server is up: kontext up")
    done = pause.resume(api, names or [])
    lines = [f"{each.deployment}: resumed (paused by {each.by}: {each.why})" for each in done]
    print_result([vars(each) for each in done], "\n".join(lines) or "nothing is paused", as_json)
