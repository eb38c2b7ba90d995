"""`kontext up`: the Prefect server, its workers and deployments."""

import signal
import time
from typing import Annotated

import typer

from flows.cli.shared import opened
from flows.cli.shared.options import Json, Panel
from flows.cli.shared.show import print_result, say

PLACE = (Panel.SERVER, 1)


def up(
    port: Annotated[
        int | None, typer.Option(help="Port of the server; by default 4200, or a free one.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; by default 127.0.0.1.")
    ] = None,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground", "-f", help="Stay in the foreground, and stop everything on Ctrl-C."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the Prefect server, workers and deployments, or attach to what is up."""
    from flows.server import serve

    at = opened.at("", write=True)
    where = serve.describe(at, serve.up(at, port=port, host=host, say=say))
    print_result(where, f"Prefect is up: {where['login']}", as_json)
    if foreground:
        _wait_for_signal()
        serve.down(at, say=say)


def _wait_for_signal() -> None:
    """Until Ctrl-C or SIGTERM; what dies meanwhile is the supervisor's business."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: stopped.append(got))
    while not stopped:
        time.sleep(1)
