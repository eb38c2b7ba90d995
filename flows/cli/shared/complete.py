"""What the shell completes after TAB: recipes, keys, stages, artifacts.

What is heavy is imported inside. A store that cannot be read completes nothing: a line that is
being typed is no place for an error.
"""

from contextlib import suppress

import typer

from kontext.errors import KontextError

_FEW = 200  # artifacts that are offered


def complete_recipe(ctx: typer.Context, incomplete: str) -> list[str]:
    """Named recipes and those of the store. The shell adds files."""
    from schemas.recipes import RECIPES

    found = [*RECIPES]
    with suppress(KontextError):
        from kontext.store.objects import open_store
        from kontext.store.recipes import stored_recipes

        stored = stored_recipes(open_store(_store(ctx)))
        found += dict.fromkeys(recipe.name for recipe in stored)
        found += [recipe.reference for recipe in stored if "@" in incomplete]
    return [name for name in found if name.startswith(incomplete)]


def complete_key(incomplete: str) -> list[str]:
    """Keys of a recipe, for `--set`; after `=` the values of a key that has a choice."""
    from schemas.keys import recipe_keys

    key, given, value = incomplete.partition("=")
    keys = {found.key: found for found in recipe_keys() if "[" not in found.key}
    if not given:
        return [f"{name}=" for name in keys if name.startswith(key)]
    choices = keys[key].choices if key in keys else ()
    return [f"{key}={choice}" for choice in choices if choice.startswith(value)]


def complete_stage(incomplete: str) -> list[str]:
    """Stages of the pipeline."""
    from kontext.stages import STAGES

    return [name for name in STAGES if name.startswith(incomplete)]


def complete_ref(ctx: typer.Context, incomplete: str) -> list[str]:
    """Stages and tags; after a stage's `/` the digests of its artifacts."""
    with suppress(KontextError):
        return [ref for ref in _refs(ctx, incomplete) if ref.startswith(incomplete)][:_FEW]
    return []


def _refs(ctx: typer.Context, incomplete: str) -> list[str]:
    from flows.cli.shared.opened import artifacts

    stage, slash, _ = incomplete.partition("/")
    store = artifacts(_store(ctx))
    if slash:
        return ["/".join(ref) for ref in store.refs(stage)]
    return [*complete_stage(incomplete), *store.tags()]


def _store(ctx: typer.Context) -> str:
    """The store that the line names, or the environment's. Raises StoreError where there is none.

    Opening a folder makes it, and nobody wants a store for having pressed TAB.
    """
    from tasks.workspace import existing

    return existing(str(ctx.params.get("store") or "")).store
