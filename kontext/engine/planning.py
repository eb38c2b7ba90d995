"""Which of the stages that a run goes through are made, and why."""

from collections.abc import Collection, Mapping, Sequence

from kontext.engine.stage import PlannedStage, Stage, StageStatus
from kontext.errors import ArtifactError

CHANGES_RESULTS = False  # decides what is made, not what comes out


def planned(
    stages: Mapping[str, Stage],
    names: Sequence[str],
    states: Mapping[str, StageStatus],
    force: Collection[str],
    chosen: Collection[str],
) -> list[PlannedStage]:
    """`names` in order, each reused as it is or made: because of its state, forced, or after one.

    `chosen` are stages whose artifact was given. Raises ArtifactError when a stage from before that
    they need is missing.
    """
    redone: set[str] = set()
    found = []
    for name in names:
        stage, status = stages[name], states[name]
        for source in stage.inputs:
            if source not in names and states[source].state != "done":
                raise ArtifactError(
                    f"stage '{name}' needs '{source}', which is {states[source].state} "
                    f"({states[source].why}): run it first, or run without --only and --from"
                )
        why = status.why
        if name in force:
            why = "forced"
        elif name not in chosen and redone & set(stage.inputs):
            why = f"after {', '.join(s for s in stage.inputs if s in redone)}"
        reused = status.state == "done" and why == status.why
        if not reused:
            redone.add(name)
        found.append(PlannedStage(name, status.digest, reused, why))
    return found
