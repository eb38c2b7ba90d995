"""`kontext down`: stops what `kontext up` started."""

import typer

from flows.cli.shared.options import Panel
from flows.cli.shared.show import say
from kontext.errors import StoreError

PLACE = (Panel.SERVER, 2)


def down() -> None:
    """Stop the server and the workers that `kontext up` started."""
    from flows.server import serve
    from tasks.workspace import existing

    try:
        existing()
    except StoreError as error:
        typer.echo(f"nothing was running: {error}")
        return
    typer.echo("stopped" if serve.down(say=say) else "nothing was running")
