"""Programmatic edits: operations on a picture whose outcome and words are known to be true.

To add operations, write one file here with `OPERATIONS`, a tuple of `Operation`s (see `base`);
`ingest.edits` of a recipe makes edits with all of them, or with those that it names. May import
kontext.data.pixels, kontext.data.sources.stable, kontext.errors and schemas.
"""

from collections.abc import Sequence

from kontext.data.operations.base import Operation
from kontext.errors import RecipeError
from schemas.discovery import plugins


def operations() -> dict[str, Operation]:
    """Name -> operation, of all there are, by name."""
    every = {
        operation.name: operation
        for module in plugins(__name__, "OPERATIONS").values()
        for operation in module.OPERATIONS
    }
    return dict(sorted(every.items()))


def chosen(names: Sequence[str]) -> list[Operation]:
    """The operations of these names, all where there is none. Raises RecipeError for unknown."""
    known = operations()
    if unknown := sorted(set(names) - known.keys()):
        raise RecipeError(f"no operation {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def modules() -> list[str]:
    """The modules of all operations: which of them fit depends on the pictures."""
    return [module.__name__ for module in plugins(__name__, "OPERATIONS").values()]
