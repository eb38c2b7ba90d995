"""`kontext plan`: what a recipe's training will take, and afterwards what it took."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.shared.complete import complete_recipe
from flows.cli.shared.opened import changed_recipe
from flows.cli.shared.options import Json, Panel, Sets, Store
from flows.cli.shared.show import print_json
from tasks.markdown import duration

if TYPE_CHECKING:
    from kontext.train.capacity import Estimate
    from schemas.recipe import Recipe

PLACE = (Panel.RUN, 6)


def plan(
    recipe: Annotated[
        str,
        typer.Argument(help="Named recipe, or a YAML file.", autocompletion=complete_recipe),
    ] = "demo",
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs.")] = 1,
    memory: Annotated[float, typer.Option(min=1, help="Memory of each GPU, in GiB.")] = 139.0,
    device: Annotated[
        str,
        typer.Option(
            help="Name of the GPUs, for their peak FLOP/s; unknown: no time is predicted."
        ),
    ] = "H200",
    share: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="Share of the peak FLOP/s that is reached, 0 to 1."),
    ] = 0.4,
    overrides: Sets = None,
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Predict parameters, memory, operations, step time and days of the training stages.

    Says which setting to change where a stage does not fit. For stages of this recipe that have
    run, shows what was measured next to what is predicted for the machine given here.
    """
    from kontext.train.capacity import Machine, estimates

    chosen = changed_recipe(recipe, overrides, store)
    typer.echo("a step of each training stage is rehearsed: this can take a minute", err=True)
    stages = estimates(_in_given_shapes(chosen, store), Machine(gpus, memory, device, share))
    measured = _measured(chosen, stages, store)
    if as_json:
        rows = [{**asdict(s), "memory_gib": s.memory_gib, "days": s.days} for s in stages]
        print_json({"stages": rows, "measured": measured})
        return
    typer.echo(f"on {gpus} x {device} of {memory:g} GiB at {share:.0%} of its peak (see --help):")
    for stage in stages:
        _print_stage(stage)
    for row in measured:
        _print_measured(row)


def _in_given_shapes(recipe: Recipe, store: str) -> Recipe:
    """The recipe with the shapes of given weights; as it is where they are not there yet."""
    if not recipe.weights.named:
        return recipe
    from kontext.train.start.fit import with_given_shapes
    from tasks.workspace import open_artifacts, places

    return with_given_shapes(recipe, open_artifacts(places(store)))


def _print_stage(stage: Estimate) -> None:
    days = stage.days
    whole = "unknown: the device's peak is not known" if days is None else _time(days * 86_400)
    typer.echo(
        f"{stage.stage}: {stage.parameters / 1e6:,.1f} M parameters, {stage.steps:,} steps of "
        f"{stage.flops / 1e12:.3g} TFLOP, recompute {stage.recompute}\n"
        f"  per GPU {stage.memory_gib:.1f} GiB: state {stage.state_gib:.1f}, activations "
        f"{stage.activations_gib:.1f}, {'fits' if stage.fits else 'DOES NOT FIT'}\n"
        f"  step {_quantity(stage.step_seconds, 's')}, in all {whole}; {stage.advice}"
    )


def _print_measured(row: dict[str, Any]) -> None:
    seconds, gib = (
        f"{_quantity(row[f'measured_{what}'], unit)} "
        f"(predicted {_quantity(row[f'predicted_{what}'], unit)})"
        for what, unit in (("step_seconds", "s"), ("memory_gib", "GiB"))
    )
    typer.echo(f"{row['stage']}, measured: step {seconds}, memory {gib}, on {row['measured_on']}")


def _measured(recipe: Recipe, stages: list[Estimate], store: str) -> list[dict[str, Any]]:
    """Rows of the stages that have run with this recipe; none in a new store."""
    from kontext.errors import ArtifactError, ObjectNotFound, StoreError
    from kontext.train.capacity import compared
    from tasks.workspace import existing, open_engine

    try:
        engine = open_engine(recipe, existing(store))
    except StoreError:
        return []  # nothing has run yet
    rows = []
    for stage in stages:
        try:
            manifest = engine.artifact(stage.stage).manifest
        except (ArtifactError, ObjectNotFound):
            continue
        device = manifest.kernels.get("device", "unknown")
        rows.append({**compared(stage, manifest.metrics), "measured_on": device})
    return rows


def _time(seconds: float) -> str:
    """A duration, of long ones in days."""
    if seconds < 1:
        return "less than a second"
    return duration(seconds) if seconds < 2 * 86_400 else f"{seconds / 86_400:.3g} days"


def _quantity(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:.3g} {unit}"
