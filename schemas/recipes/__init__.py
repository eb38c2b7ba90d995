"""Named recipes, one file each: a function `recipe()` in a new file here is a new named recipe.

Files may import `schemas.recipe` and the sections.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from schemas.discovery import plugins
from schemas.recipe import Recipe

CHANGES_RESULTS = False  # a recipe's values are part of every digest
DEFAULT = "demo"  # listed first: the one that is run where none is named


_FOUND = plugins(__name__, "recipe")
RECIPES: dict[str, Callable[[], Recipe]] = {
    name: _FOUND[name].recipe for name in dict.fromkeys([DEFAULT, *_FOUND])
}


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
        value: Any = raw
        with suppress(json.JSONDecodeError):
            value = json.loads(raw)
        _assign(data, path.split("."), value, override)
    return Recipe.model_validate(data)


def _assign(data: Any, path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        if not isinstance(data, dict) or key not in data:
            raise ValueError(f"override '{override}': no such key '{key}'")
        data = data[key]
    if not isinstance(data, dict) or (path[-1] not in data):
        raise ValueError(f"override '{override}': no such key '{path[-1]}'")
    data[path[-1]] = value


__all__ = ["RECIPES", "Recipe", "load_recipe"]
