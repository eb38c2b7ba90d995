"""`kontext stages`: the stages of the pipeline."""

from flows.cli.shared.options import Json, Panel
from flows.cli.shared.show import print_json, print_table

PLACE = (Panel.RUN, 4)


def stages(as_json: Json = False) -> None:
    """List the stages, their inputs and pools."""
    from kontext.stages import STAGES

    headers = ("stage", "inputs", "pool", "summary")
    rows = [(s.name, s.inputs, s.pool, s.summary) for s in STAGES.values()]
    if as_json:
        print_json([dict(zip(headers, row, strict=True)) for row in rows])
    else:
        print_table([(name, ", ".join(inputs), *rest) for name, inputs, *rest in rows], headers)
