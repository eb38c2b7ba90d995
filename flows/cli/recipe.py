"""`kontext recipe …`: what recipes there are, what can be changed, and files of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.shared import opened
from flows.cli.shared.complete import complete_recipe
from flows.cli.shared.options import Json, Panel, Sets, Store
from flows.cli.shared.show import print_json, print_result, print_table
from kontext.errors import RecipeError, StoreError
from schemas.words import suggestion, unknown

if TYPE_CHECKING:
    from schemas.recipe import Recipe

PLACE = (Panel.RUN, 3)
app = typer.Typer(help="List, show and compare recipes, their keys, or begin one of your own.")
Name = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="Name, or a YAML file.", autocompletion=complete_recipe),
]
_WIDEST = 48  # characters of a value in a table


@app.command("list")
def list_recipes(store: Store = "", as_json: Json = False) -> None:
    """List the named recipes, and yours that runs have stored, the last one first."""
    from kontext.store.recipes import stored_recipes
    from schemas.recipes import RECIPES, about

    rows = [{"recipe": name, "stored": "", "about": about(name)} for name in RECIPES]
    try:
        stored = stored_recipes(opened.objects(store))
    except StoreError:  # where there is no home yet, nobody has stored one
        if store:
            raise
        stored = []
    for found in stored:
        rows.append({"recipe": found.reference, "stored": f"{found.stored:%F %T}", "about": ""})
    if as_json:
        print_json(rows)
    else:
        print_table([[*row.values()] for row in rows], ("recipe", "stored (UTC)", "about"))


@app.command()
def show(recipe: Name, overrides: Sets = None, store: Store = "", as_json: Json = False) -> None:
    """Print every key of a recipe as YAML, with its title."""
    from schemas.recipe_file import recipe_yaml

    found = opened.changed_recipe(recipe, overrides, store)
    print_result(found.model_dump(mode="json"), recipe_yaml(found).rstrip(), as_json)


@app.command()
def keys(
    part: Annotated[
        str, typer.Argument(metavar="[FILTER]", help="Part of the key or of its title.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List what can be changed: key, type, default, unit and title."""
    from schemas.keys import recipe_keys

    found = recipe_keys(part)
    if not found:
        words = {word for key in recipe_keys() for word in (key.key, *key.key.split("."))}
        raise RecipeError(f"no key and no title has '{part}'{suggestion(part, words)}")
    if as_json:
        print_json([vars(key) for key in found])
        return
    rows = [(key.key, key.type, _cut(key.default), key.unit, key.title) for key in found]
    print_table(rows, ("key", "type", "default", "unit", "title"))


@app.command()
def diff(before: Name, after: Name, store: Store = "", as_json: Json = False) -> None:
    """Show the keys that differ between two recipes."""
    old, new = (_values(opened.changed_recipe(name, None, store)) for name in (before, after))
    rows = [
        {"key": key, "before": old.get(key), "after": new.get(key)}
        for key in dict.fromkeys([*old, *new])
        if key not in old or key not in new or old[key] != new[key]
    ]
    if as_json:
        print_json(rows)
    else:
        texts = [
            [row["key"], *(json.dumps(row[side]) for side in ("before", "after"))] for row in rows
        ]
        print_table(texts, ("key", before, after))


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="YAML file to write; its name names the recipe.")],
    base: Annotated[
        str,
        typer.Option("--from", help="Named recipe to begin with.", autocompletion=complete_recipe),
    ] = "demo",
    as_json: Json = False,
) -> None:
    """Write a recipe file, with a dataset and a model of its own."""
    from schemas.recipe_file import new_recipe_yaml
    from schemas.recipes import RECIPES
    from schemas.yaml_text import YamlError

    if base not in RECIPES:
        raise typer.BadParameter(unknown("recipe", base, RECIPES), param_hint="--from")
    if file.suffix not in (".yaml", ".yml"):
        raise typer.BadParameter("a recipe's file ends in .yaml or .yml", param_hint="FILE")
    try:
        text = new_recipe_yaml(file.stem, base)
        with file.open("x") as written:
            written.write(text)
    except YamlError as error:
        raise RecipeError(str(error)) from error
    except OSError as error:
        raise RecipeError(f"{file}: {error.strerror}") from error
    told = f"{file}: change it, then kontext run --recipe {file}"
    print_result({"file": str(file), "name": file.stem, "from": base}, told, as_json)


def _values(recipe: Recipe) -> dict[str, Any]:
    """Key -> value; a list of sections has one key per entry and its keys."""
    return dict(_flat("", recipe.model_dump(mode="json")))


def _flat(above: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(f"{above}.{key}" if above else key, item)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from _flat(f"{above}[{number}]", item)
    else:
        yield above, value


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"
