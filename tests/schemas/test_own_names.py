"""No recipe, and nobody's own images, commit or publish under the name of another."""

import json
from pathlib import Path

import pytest

from schemas.recipe import Recipe
from schemas.recipes import RECIPES, load_recipe
from schemas.sections.data import ShardConfig


def names(recipe: Recipe) -> tuple[str, str]:
    return recipe.shard.dataset, recipe.publish.name


def of(*sources: dict[str, object], recipe: str = "demo", more: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(recipe, (f"ingest.sources={json.dumps(sources)}", *more))


def test_every_recipe_has_its_own_and_only_tests_are_no_default() -> None:
    found = {name: load_recipe(name) for name in RECIPES}
    assert len({names(recipe) for recipe in found.values()}) == len(found)
    assert {name for name, recipe in found.items() if not recipe.as_default} == {
        *("ci", "ladd-lab", "ladd-lab-gpu")
    }


def test_a_recipe_that_names_nothing_is_named_after_itself() -> None:
    assert names(Recipe(name="mine")) == ("mine", "kontext-mine")
    named = Recipe(name="mine", shard=ShardConfig(dataset="other", seed=3))
    assert (*names(named), named.shard.seed) == ("other", "kontext-mine", 3)
    seeded = Recipe.model_validate({"name": "mine", "shard": {"seed": 3}})
    assert (*names(seeded), seeded.shard.seed) == ("mine", "kontext-mine", 3)


@pytest.mark.parametrize(
    ("folder", "dataset"),
    [
        ("/data/pictures", "pictures"),
        ("my pictures/", "my-pictures"),
        ("/data/写真", "写真"),
        ("/data/demo", "demo-demo"),
        ("/data/--", "own"),
        ("/", "folder"),
    ],
)
def test_own_images_are_named_after_their_folder(folder: str, dataset: str) -> None:
    found = of({"kind": "folder", "path": folder})
    assert names(found) == (dataset, f"kontext-{dataset}")


def test_a_file_gives_its_name_without_the_suffix(tmp_path: Path) -> None:
    listed = tmp_path / "list.of mine.parquet"
    listed.touch()
    assert names(of({"kind": "folder", "path": str(listed)}))[0] == "list.of-mine"


def test_a_folder_without_a_name_is_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")
    assert names(of({"kind": "folder", "path": "."})) == ("photos", "kontext-photos")


def test_other_recipes_and_several_sources_show_in_the_name() -> None:
    folder = {"kind": "folder", "path": "/data/pictures"}
    assert of(folder, recipe="ci").shard.dataset == "pictures-ci"
    assert of(folder, {"kind": "signs"}, {"kind": "signs"}).shard.dataset == "pictures-signs"
    assert len(of(*({**folder, "path": f"/data/{n}0000000"} for n in range(20))).shard.dataset) < 60


def test_names_that_are_given_stay() -> None:
    folder = {"kind": "folder", "path": "/data/pictures"}
    given = of(folder, more=("shard.dataset=demo",))
    assert names(given) == ("demo", "kontext-demo")
    assert names(of(folder, more=("publish.name=best",))) == ("pictures", "best")
    assert names(load_recipe("demo", ("ingest.resolution=32",))) == ("demo", "kontext-demo")


@pytest.mark.parametrize("name", ["a/b", "", "..", "a@v1", "a b", "a\n"])
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    for key in ("shard.dataset", "publish.name"):
        with pytest.raises(ValueError, match="pattern"):
            load_recipe("demo", (f"{key}={json.dumps(name)}",))
