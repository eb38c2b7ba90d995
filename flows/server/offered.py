"""Users' own recipes in the run forms: the choice of every deployment that takes a recipe."""

from collections.abc import Iterator
from typing import Any

from flows.server.api import Api
from kontext.store.objects import ObjectStore
from kontext.store.recipes import stored_recipes
from schemas.recipes import RECIPES


def offer_recipes(api: Api, objects: ObjectStore) -> None:
    """Have all forms offer the named recipes, and of a store's the last one of each name."""
    last = {found.name: found.reference for found in reversed(stored_recipes(objects))}
    wanted = [*RECIPES, *reversed(last.values())]
    ours = {"deployments": {"tags": {"all_": ["kontext"]}}}
    for deployment in api.call("POST", "/deployments/filter", ours):
        schema = deployment["parameter_openapi_schema"]
        choices = [choice for choice in _choices(schema) if choice["enum"] != wanted]
        for choice in choices:
            choice["enum"] = wanted
        if choices:
            changed = {"parameter_openapi_schema": schema}
            api.call("PATCH", f"/deployments/{deployment['id']}", changed)


def _choices(schema: Any) -> Iterator[Any]:
    """The parts of a deployment's schema that list recipes (`flows.forms.RecipeForm`)."""
    for form in (schema or {}).get("definitions", {}).values():
        for option in form.get("properties", {}).get("recipe", {}).get("anyOf", ()):
            if "enum" in option:
                yield option
