"""Named recipes, one file each: a function `recipe()` in a new file here is a new named recipe.

Files may import `schemas.recipe` and the sections.
"""

import json
from collections.abc import Callable
from typing import Any

from schemas.discovery import plugins
from schemas.recipe import Recipe

CHANGES_RESULTS = False  # a recipe's values are part of every digest
DEFAULT = "demo"  # listed first: the one that is run where none is named


def _found() -> dict[str, Callable[[], Recipe]]:
    recipes = {name: module.recipe for name, module in plugins(__name__, "recipe").items()}
    return {DEFAULT: recipes.pop(DEFAULT), **recipes}


RECIPES: dict[str, Callable[[], Recipe]] = _found()


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Return the named recipe with `section.key=value` overrides applied.

    Values are parsed as JSON and taken as plain strings where they are not JSON.

    Raises:
        ValueError: unknown recipe, malformed override, unknown key or value out of range.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe '{name}' (known: {', '.join(RECIPES)})")
    data = RECIPES[name]().model_dump(mode="json")
    for override in overrides:
        path, sep, raw = override.partition("=")
        if not sep:
            raise ValueError(f"override '{override}' is not of the form section.key=value")
        _assign(data, path.split("."), _parse(raw), override)
    return Recipe.model_validate(data)


def _parse(raw: str) -> Any:
    try:
        return json.loads(raw)
    except json.JSONDecodeError:
        return raw


def _assign(data: Any, path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        if not isinstance(data, dict) or key not in data:
            raise ValueError(f"override '{override}': no such key '{key}'")
        data = data[key]
    if not isinstance(data, dict) or (path[-1] not in data):
        raise ValueError(f"override '{override}': no such key '{path[-1]}'")
    data[path[-1]] = value


__all__ = ["RECIPES", "Recipe", "load_recipe"]
