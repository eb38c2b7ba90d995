"""Named recipes: found by their files, and the same configuration as ever."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from schemas.recipe import sections_of_stage_files
from schemas.recipes import RECIPES, Recipe, load_recipe
from schemas.sections.base import Section
from schemas.sections.sources import source_kinds

KNOWN = json.loads(Path(__file__).with_name("recipes.json").read_text())


def test_every_file_is_a_recipe_and_the_demo_comes_first() -> None:
    folder = Path(__file__).parents[2] / "schemas" / "recipes"
    files = {path.stem.replace("_", "-") for path in folder.glob("[!_]*.py")}
    assert set(RECIPES) == files and next(iter(RECIPES)) == "demo"
    assert all(RECIPES[name]().name == name for name in RECIPES)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_named_recipe_has_the_recorded_configuration(name: str) -> None:
    """Digests depend on these bytes: a difference here makes every store's artifacts stale."""
    found = json.loads(load_recipe(name).model_dump_json(exclude=set(sections_of_stage_files())))
    for section in {*found, *KNOWN[name]}:
        own, known = (json.dumps(from_[section]) for from_ in (found, KNOWN[name]))
        assert own == known, section
    assert json.dumps(found) == json.dumps(KNOWN[name])  # and in the same order


def test_overrides_are_parsed_and_checked() -> None:
    recipe = load_recipe("ci", ("distill.seed=7", "shard.dataset=mine"))
    assert recipe.distill.seed == 7 and recipe.shard.dataset == "mine"
    for override, told in (
        ("distill.sed=7", "no key 'sed' in distill; did you mean 'seed'"),
        ("distill", "not of the form"),
        ("distill.student_steps=99", "less than or equal to 8"),
    ):
        with pytest.raises(ValueError, match=told):
            load_recipe("ci", (override,))
    with pytest.raises(ValueError, match="unknown recipe 'nothing'"):
        load_recipe("nothing")


def test_a_recipe_survives_json_and_pickle() -> None:
    recipe = load_recipe("h200")
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_a_recipe_needs_no_package_that_reads_images() -> None:
    """Training alone has torch, numpy, safetensors and pydantic, and reads recipes all the same."""
    text = (
        "import sys; from schemas.recipes import load_recipe; load_recipe('h200');"
        "import json; print(json.dumps([*{name.split('.')[0] for name in sys.modules}]))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert not {"PIL", "pyvips", "pyarrow", "cv2", "matplotlib", "dicebear"} & set(
        json.loads(done.stdout)
    )


def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and all models in its fields."""
    yield kind
    for field in kind.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from models(inner)


@pytest.mark.parametrize(
    "kind", sorted({*models(Recipe), *source_kinds().values()}, key=str), ids=str
)
def test_every_field_has_a_title_and_every_section_says_what_it_is(kind: type[BaseModel]) -> None:
    untitled = [name for name, field in kind.model_fields.items() if not field.title]
    assert set(untitled) <= {"kind"} and kind.__doc__ and kind.__doc__ != Section.__doc__
