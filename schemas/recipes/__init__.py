"""Named recipes, one file each: a function `recipe()` in a new file here is a new named recipe.

A recipe's file may import `schemas.recipe`, the sections, and a recipe that it enlarges.
"""

from collections.abc import Callable, Iterable

from schemas.changes import with_overrides
from schemas.discovery import plugins
from schemas.recipe import DEFAULT, Recipe
from schemas.words import unknown

CHANGES_RESULTS = False  # a recipe's values are part of every digest


_FOUND = plugins(__name__, "recipe")
RECIPES: dict[str, Callable[[], Recipe]] = {
    name: _FOUND[name].recipe for name in dict.fromkeys([DEFAULT, *_FOUND])
}


def about(name: str) -> str:
    """What a named recipe is, in one line."""
    return (_FOUND[name].__doc__ or "").partition("\n")[0]


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """Return the named recipe with `section.key=value` overrides applied.

    Raises:
        ValueError: unknown recipe, malformed override, unknown key or value out of range.
    """
    if name not in RECIPES:
        raise ValueError(unknown("recipe", name, RECIPES))
    return with_overrides(RECIPES[name](), overrides)


__all__ = ["DEFAULT", "RECIPES", "Recipe", "about", "load_recipe"]
