"""Users' recipes in a store, so that a run needs no file: `recipes/NAME/DIGEST.json`.

Each is stored with all its values, by content. `NAME@DIGEST` means one of them for ever, `NAME` the
one that was stored last.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from kontext.errors import RecipeError
from kontext.store.objects import ObjectStore
from schemas.recipe import Recipe
from schemas.words import NAME, unknown

CHANGES_RESULTS = False  # a recipe's values are part of every digest

REFERENCE = rf"{NAME}(@[0-9a-f]{{4,64}})?"  # a regular expression
_FOLDER, _DIGITS = "recipes", 12


@dataclass(frozen=True)
class StoredRecipe:
    """A recipe in a store."""

    name: str
    digest: str
    stored: datetime  # last, UTC

    @property
    def reference(self) -> str:
        """`NAME@DIGEST`."""
        return f"{self.name}@{self.digest}"


def put_recipe(objects: ObjectStore, recipe: Recipe) -> str:
    """Store a recipe, as the last of its name, and return `NAME@DIGEST`."""
    data = recipe.model_dump_json(indent=1).encode()
    digest = hashlib.sha256(data).hexdigest()[:_DIGITS]
    objects.put(f"{_FOLDER}/{recipe.name}/{digest}.json", data)
    return f"{recipe.name}@{digest}"


def stored_recipes(objects: ObjectStore, name: str = "") -> list[StoredRecipe]:
    """The recipes of a store, or those of one name; the last that was stored comes first."""
    found = []
    for info in objects.list_info(f"{_FOLDER}/{name}/" if name else f"{_FOLDER}/"):
        if key := re.fullmatch(rf"{_FOLDER}/({NAME})/([0-9a-f]{{{_DIGITS}}})\.json", info.key):
            found.append(StoredRecipe(key[1], key[2], info.modified))
    return sorted(found, key=lambda recipe: recipe.stored, reverse=True)


def find_recipe(objects: ObjectStore, reference: str, known: tuple[str, ...] = ()) -> StoredRecipe:
    """The recipe that `NAME` or `NAME@DIGEST` means; the digest may be cut to four digits.

    `known` are other recipes that may have been meant. Raises RecipeError where there is none.
    """
    name, _, digest = reference.partition("@")
    if re.fullmatch(REFERENCE, reference):
        found = [r for r in stored_recipes(objects, name) if r.digest.startswith(digest)]
        if digest and len(found) > 1:
            raise RecipeError(f"'{reference}' may be {' or '.join(r.reference for r in found)}")
        if found:
            return found[0]
    names = dict.fromkeys([*known, *(recipe.name for recipe in stored_recipes(objects))])
    if name in names:
        raise RecipeError(f"no recipe '{reference}' in {objects.url} (kontext recipe list)")
    raise RecipeError(unknown("recipe", reference, names))


def get_recipe(objects: ObjectStore, recipe: StoredRecipe) -> Recipe:
    """Read a stored recipe. Raises RecipeError where this version of kontext cannot."""
    data = objects.get(f"{_FOLDER}/{recipe.name}/{recipe.digest}.json")
    try:
        return Recipe.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(
            f"recipe {recipe.reference} is of another version of kontext: {where}: {first['msg']}"
        ) from error
