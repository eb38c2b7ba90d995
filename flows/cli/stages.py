"""`kontext stages`: the stages of the pipeline."""

from flows.cli.shared.options import Json, Panel
from flows.cli.shared.show import print_json, print_table

PLACE = (Panel.RUN, 3)


def stages(as_json: Json = False) -> None:
    """List the stages, their inputs and pools."""
    from kontext.stages import STAGES

    if as_json:
        print_json(
            [
                {"stage": s.name, "inputs": list(s.inputs), "pool": s.pool, "summary": s.summary}
                for s in STAGES.values()
            ]
        )
        return
    rows = [(s.name, ", ".join(s.inputs), s.pool, s.summary) for s in STAGES.values()]
    print_table(rows, ("stage", "inputs", "pool", "summary"))
