"""`kontext nightly`: a published model again, by a run of the deployment `nightly-evaluation`."""

from typing import Annotated

import typer

from flows.cli.shared.complete import complete_ref
from flows.cli.shared.options import Json, Panel, Store
from flows.cli.shared.submit import submit

PLACE = (Panel.SERVER, 5)


def nightly(
    model: Annotated[
        str, typer.Argument(help="Tag of a published model.", autocompletion=complete_ref)
    ],
    tolerance: Annotated[
        float, typer.Option(help="How far a success rate may fall, 0 to 1.")
    ] = 0.05,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Evaluate a published model again; fails when it is worse than when it was published."""
    submit("nightly-evaluation", {"model": model, "tolerance": tolerance}, store, as_json)
