"""The stage graph, found in the files of a package: each stage's file declares its own `STAGE`.

A declaration is a literal, `STAGE = Stage(name="mine", section="mine", inputs=("ingest",), ...)`,
and is read from the syntax tree. So listing the graph imports no stage: `kontext status` must not
wait for torch, and the forms of the server must not either. Order is that of the declared inputs,
and among stages that could run at the same time that of their names.

The file's docstring says under `Figures:` how its metrics are read, the important ones first, as
`pass_rate/*: {%} of the pairs pass the filter *`. Docstrings are in no digest: better words make
nothing stale.
"""

import ast
from collections.abc import Collection, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from kontext.engine.stage import Stage, section_in
from kontext.errors import ArtifactError
from schemas.sections.base import Section
from schemas.syntax import syntax_tree

CHANGES_RESULTS = False  # inputs are in every digest


def discover(package: str, folder: Path) -> dict[str, Stage]:
    """Stages of the files in `folder`, in execution order. Files without a `STAGE` are skipped.

    Raises ArtifactError where a declaration is not literal, a name is taken twice, an input is no
    stage, or inputs go round in a circle.
    """
    found: dict[str, Stage] = {}
    paths = sorted(folder.glob("*.py"))
    stages = (declared(path.read_text(), f"{package}.{path.stem}") for path in paths)
    for stage in filter(None, stages):
        if stage.name in found:
            raise ArtifactError(f"two files declare stage '{stage.name}'")
        found[stage.name] = stage
    return ordered(found)


def declared(source: str, module: str) -> Stage | None:
    """The stage that the source of `module` declares, or None. Raises ArtifactError."""
    tree = syntax_tree(source, module)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STAGE":
            call = node.value
            try:
                if not isinstance(call, ast.Call) or call.args or ast.unparse(call.func) != "Stage":
                    raise ValueError("not a call of Stage with keywords")
                given = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
                figures = _figures(ast.get_docstring(tree) or "")
                return Stage(**given, module=module, figures=figures)
            except (ValueError, TypeError) as error:
                raise ArtifactError(
                    f"{module}: STAGE is not a literal Stage(...): {error}"
                ) from error
    return None


def _figures(docstring: str) -> dict[str, str]:
    """Metric -> words, of a docstring's lines under `Figures:`."""
    lines = docstring.partition("\nFigures:\n")[2].splitlines()
    pairs = (line.strip().partition(": ") for line in lines if line.startswith("    "))
    return {name: words for name, _, words in pairs}


def ordered(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Stages in execution order. Raises ArtifactError for an unknown input or a circle."""
    for stage in stages.values():
        if unknown := set(stage.inputs) - set(stages):
            raise ArtifactError(f"inputs of stage '{stage.name}' are no stages: {sorted(unknown)}")
    sorter = TopologicalSorter({name: stage.inputs for name, stage in stages.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise ArtifactError(f"stages need each other: {' -> '.join(error.args[1])}") from error
    names: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        names += ready
        sorter.done(*ready)
    return {name: stages[name] for name in names}


def downstream(stages: Mapping[str, Stage], name: str) -> list[str]:
    """`name` and the stages that depend on it, in the order of `stages`."""
    found = {name}
    for stage in stages.values():
        if found & set(stage.inputs):
            found.add(stage.name)
    return [other for other in stages if other in found]


def of_recipe(stages: Mapping[str, Stage], recipe: Section) -> dict[str, Stage]:
    """The stages that a recipe has: without those whose field `when` is empty in its section."""
    conditional = [stage for stage in stages.values() if stage.when]
    absent = [s.name for s in conditional if not getattr(section_in(recipe, s), s.when)]
    return _without(stages, absent)


def stage_named(name: str, stages: Mapping[str, Stage], everything: Mapping[str, Stage]) -> Stage:
    """A stage of a recipe's graph. Raises ArtifactError: there is none, or this recipe has it not.

    Args:
        stages: the recipe's.
        everything: the whole graph.
    """
    if name in stages:
        return stages[name]
    if name not in everything:
        raise ArtifactError(f"unknown stage '{name}' (known: {', '.join(stages)})")
    field = f"{everything[name].section}.{everything[name].when}"
    raise ArtifactError(f"this recipe has no stage '{name}': its {field} is empty")


def of_run(stages: Mapping[str, Stage], made: Collection[str]) -> dict[str, Stage]:
    """The graph of a recipe of which the stages `made` are known: without those that it has not."""
    return _without(stages, [n for n, s in stages.items() if s.when and n not in made])


def _without(stages: Mapping[str, Stage], left_out: Collection[str]) -> dict[str, Stage]:
    """Without some stages: they are no other stage's input either."""
    return {
        name: replace(stage, inputs=tuple(one for one in stage.inputs if one not in left_out))
        for name, stage in stages.items()
        if name not in left_out
    }
