import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from kontext.engine.graph import declared, discover, downstream, of_recipe, of_run, ordered
from kontext.engine.run import Engine
from kontext.engine.stage import Stage, section_in
from kontext.errors import ArtifactError, RecipeError
from kontext.stages import STAGES
from schemas.recipes import RECIPES, Recipe, load_recipe
from schemas.sections.base import Section
from tasks.request import planned_stages

ALWAYS = [name for name in STAGES if name != "exclude"]  # of every recipe that has a student
EXCLUDED = 'exclude.concepts=[{"name": "hats", "pattern": "hat"}]'


def test_order_is_execution_order_and_sections_exist() -> None:
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert stage.name == name and stage.summary and stage.pool in ("cpu", "gpu")
        assert set(stage.inputs) <= seen, f"{name} runs before its inputs"
        assert isinstance(section_in(Recipe(), stage), Section)
        assert stage.module == f"kontext.stages.{name.replace('-', '_')}"
        seen.add(name)


def test_the_graph_lists_stages_without_importing_them() -> None:
    script = (
        "import sys; from kontext.stages import STAGES; "
        "print(len(STAGES), [m for m in ('torch', 'duckdb', *(s.module for s in STAGES.values())) "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1) == [str(len(STAGES)), "[]\n"]


def test_a_declaration_is_what_the_module_says() -> None:
    for stage in STAGES.values():
        said = importlib.import_module(stage.module).STAGE
        assert dataclasses.replace(said, module=stage.module) == stage


def test_a_new_stage_is_one_file_and_order_does_not_depend_on_names(tmp_path: Path) -> None:
    for name, inputs in (("a", ("b",)), ("b", ()), ("c", ()), ("helper", None)):
        text = (
            "" if inputs is None else f"STAGE = Stage(name={name!r}, section='', inputs={inputs})"
        )
        (tmp_path / f"{name}.py").write_text(f"import heavy\n{text}\n")
    found = discover("some.package", tmp_path)
    assert list(found) == ["b", "c", "a"] and found["a"].module == "some.package.a"


def test_what_no_graph_can_be_made_of_is_refused(tmp_path: Path) -> None:
    stages = {n: Stage(name=n, section="", inputs=(i,)) for n, i in (("a", "b"), ("b", "a"))}
    with pytest.raises(ArtifactError, match="stages need each other"):
        ordered(stages)
    with pytest.raises(ArtifactError, match=r"inputs of stage 'a' are no stages: \['b'\]"):
        ordered({"a": stages["a"]})
    for text in ("STAGE = Stage(name=NAME)", "STAGE = make()", "STAGE = Stage('a')"):
        with pytest.raises(ArtifactError, match=r"p\.m: STAGE is not a literal"):
            declared(text, "p.m")
    assert declared("OTHER = 1\n", "p.m") is None
    for file in ("one.py", "two.py"):
        (tmp_path / file).write_text("STAGE = Stage(name='x', section='')")
    with pytest.raises(ArtifactError, match="two files declare stage 'x'"):
        discover("p", tmp_path)


def test_a_stage_without_settings_has_an_empty_section() -> None:
    assert section_in(Recipe(), Stage(name="a")) == Section()
    assert section_in(Recipe(), STAGES["mine"]) == Recipe().mine


def test_downstream_includes_itself_and_only_dependents() -> None:
    assert downstream(STAGES, "distill") == ["distill", "evaluate", "publish"]
    assert downstream(STAGES, "ingest") == list(STAGES)
    assert downstream(STAGES, "publish") == ["publish"]


@pytest.fixture
def engines(tmp_path: Path) -> object:

    def make(recipe: str, *overrides: str) -> Engine:
        loaded = load_recipe(recipe, overrides)
        url, catalog = f"file://{tmp_path}/store", tmp_path / "catalog.sqlite"
        return Engine(loaded, url, catalog, tmp_path, stages=STAGES)

    return make


def changed(one: Engine, other: Engine) -> list[str]:
    before, after = one.digests(), other.digests()
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize("recipe", sorted(n for n in RECIPES if not RECIPES[n]().weights.named))
def test_digests_are_distinct_and_stable(engines: object, recipe: str) -> None:
    digests = engines(recipe).digests()  # type: ignore[operator]
    assert list(digests) == ALWAYS and len(set(digests.values())) == len(ALWAYS)
    assert engines(recipe).digests() == digests  # type: ignore[operator]


def test_a_recipe_whose_weights_are_not_there_is_refused_in_one_line(engines: object) -> None:
    engine = engines("flux1-lora")  # type: ignore[operator]
    found = planned_stages(engine, "", "", "index", ())  # a machine for the data can do without
    assert [step.stage for step in found][-1] == "index"
    for last, part in (("", "autoencoder"), ("train-autoencoder", "autoencoder")):
        with pytest.raises(RecipeError) as told:
            planned_stages(engine, "", "", last, ())
        line = str(told.value)
        assert line.startswith(f"weights.{part}: 'FLUX.1-Kontext-dev' is neither a file")
        assert "--set weights=FOLDER" in line and "\n" not in line


@pytest.mark.parametrize(
    ("override", "first"), [("distill.seed=1", "distill"), ("mine.seed=1", "mine")]
)
def test_a_change_reaches_exactly_what_is_downstream(
    engines: object, override: str, first: str
) -> None:
    found = changed(engines("ci"), engines("ci", override))  # type: ignore[operator]
    assert found == [name for name in downstream(STAGES, first) if name in ALWAYS]


def test_a_new_store_plans_everything_and_only_needs_its_inputs(engines: object) -> None:
    found = engines("ci")  # type: ignore[operator]
    assert [p.stage for p in found.plan()] == ALWAYS
    assert not any(p.reused for p in found.plan())
    with pytest.raises(ArtifactError, match="'distill' needs 'encode', which"):
        found.plan(only="distill")


def test_a_stage_without_work_is_in_no_graph(engines: object) -> None:
    without, with_it = engines("ci"), engines("ci", EXCLUDED)  # type: ignore[operator]
    assert set(STAGES) - set(without.digests()) == {"exclude"}
    before, after = without.digests(), with_it.digests()
    assert list(after) == list(STAGES)
    found = [name for name in before if before[name] != after[name]]
    assert found == ["distill", "evaluate", "publish"]  # what is made of the teacher
    with pytest.raises(ArtifactError, match=r"no stage 'exclude': its exclude\.concepts is empty"):
        without.artifact("exclude")
    with pytest.raises(ArtifactError, match="no stage 'exclude'"):
        without.plan(only="exclude")
    undistilled = engines("ci", "distill.steps=0").digests()  # type: ignore[operator]
    assert list(undistilled) == [name for name in ALWAYS if name != "distill"]
    assert [step.stage for step in with_it.plan()] == list(STAGES)


def test_a_graph_without_a_stage_does_not_name_it() -> None:
    assert list(of_recipe(STAGES, Recipe())) == ALWAYS
    graph = of_run(STAGES, ALWAYS)
    assert list(graph) == ALWAYS
    assert not any("exclude" in stage.inputs for stage in graph.values())
    assert "exclude" in STAGES["distill"].inputs
    assert of_run(STAGES, STAGES) == STAGES
