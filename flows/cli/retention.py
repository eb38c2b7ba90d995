"""`kontext retention`: removes what nothing needs, by a run of the deployment `retention`."""

from typing import Annotated

import typer

from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.submit import submit

PLACE = (Panel.SERVER, 6)


def retention(
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without it only say what would be deleted.")
    ] = False,
    grace_days: Annotated[int, typer.Option(min=1, help="Days for which everything is kept.")] = 7,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Remove artifacts, scratch files and snapshots that nothing needs."""
    submit("retention", {"delete": delete, "grace_days": grace_days}, store, as_json)
