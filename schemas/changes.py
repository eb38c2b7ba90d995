"""Changes to a recipe, by `section.key=value` or by a file; what does not fit is said in a line."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.own_names import named_after_sources
from schemas.recipe import DEFAULT, Recipe
from schemas.sections.sources import source_kinds
from schemas.sections.weights import MOVED, WeightsConfig
from schemas.words import suggestion

CHANGES_RESULTS = False  # a recipe's values are part of every digest

Path = tuple[int | str, ...]


class MisfitError(ValueError):
    """A change that does not fit the recipe. `path` is where, from the recipe's top."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Change:
    """A key of the recipe and its new value, which replaces the whole of the old one."""

    path: tuple[str, ...]
    value: Any


def with_overrides(recipe: Recipe, overrides: Iterable[str]) -> Recipe:
    """The recipe with `section.key=value` overrides applied.

    Values are parsed as JSON and taken as plain text where they are not JSON.

    Raises MisfitError: malformed override, unknown key, or a value out of range.
    """
    return changed(recipe, [_parsed(override) for override in overrides])


def _parsed(override: str) -> Change:
    key, separator, raw = override.partition("=")
    if not separator or not all(key.split(".")):
        raise MisfitError((), f"override '{override}' is not of the form section.key=value")
    return Change(tuple(key.split(".")), json_or_text(raw))


def json_or_text(raw: str) -> Any:
    """The value that a text means: JSON where it is JSON, else the text itself."""
    with suppress(ValueError, RecursionError):  # ValueError: an integer of thousands of digits too
        return json.loads(raw)
    return raw


def changed(recipe: Recipe, changes: Iterable[Change]) -> Recipe:
    """The recipe with changes applied in their order. Raises MisfitError.

    Where the image sources are replaced, dataset and model are named after them
    (`schemas.own_names`).
    """
    before, data = recipe.model_dump(mode="json"), recipe.model_dump(mode="json")
    given = set()
    for change in changes:
        _assign(data, change)
        given.add(".".join(change.path))
    named_after_sources(data, before, given, DEFAULT)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        # a mistyped key first: what misses because of it comes second
        first, *more = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        also = f" (and {len(more)} more)" if more else ""
        raise MisfitError(first["loc"], _told(first) + also) from error


def flat(changes: Mapping[str, Any]) -> Iterator[Change]:
    """The changes of nested sections, one per key. A section without a value changes nothing."""
    yield from _flat(Recipe, changes, ())


def _flat(
    section: type[BaseModel], changes: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[Change]:
    for key, value in changes.items():
        inner = _section_at(section, key)
        if inner is not None and isinstance(value, Mapping):
            yield from _flat(inner, value, (*path, key))
        elif inner is None or value is not None:
            yield Change((*path, key), value)


def _section_at(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The class of the section that the key holds; none where it holds a value."""
    field = section.model_fields.get(key)
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _assign(data: Any, change: Change) -> None:
    """Set a value in a recipe's data. What is in no section is checked when all are applied."""
    section: type[BaseModel] | None = Recipe
    for depth, key in enumerate(change.path, start=1):
        if section is not None and key not in section.model_fields:
            raise MisfitError(change.path[:depth], _no_key(change.path[:depth], section))
        if not isinstance(data, dict):
            above = ".".join(change.path[: depth - 1])
            raise MisfitError(change.path[:depth], f"{above} has no keys: give its whole value")
        section = section and _section_at(section, key)
        if depth == len(change.path):
            if section is WeightsConfig and isinstance(change.value, str):
                # so that one part can be changed after all; adapters beside a model stay
                data[key] = {**(data.get(key) or {}), **WeightsConfig.parts(change.value)}
            else:
                data[key] = change.value
        else:
            data = data.setdefault(key, {})


def _no_key(path: Path, section: type[BaseModel]) -> str:
    """That there is no such key, and which one may have been meant."""
    *above, key = map(str, path)
    if not above:
        hint = suggestion(key, section.model_fields) or "; `kontext recipe keys` lists all"
        return f"no section '{key}'{hint}"
    where = ".".join(above)
    if now := MOVED.get(f"{where}.{key}"):
        return f"no key '{key}' in {where}: it is {now} now"
    hint = _elsewhere(key) or suggestion(key, section.model_fields)
    return f"no key '{key}' in {where}{hint or f'; `kontext recipe keys {above[0]}` lists them'}"


def _elsewhere(key: str) -> str:
    """The sections that have a key of that name."""
    sections = {name: _section_at(Recipe, name) for name in Recipe.model_fields}
    has = [name for name, kind in sections.items() if kind and key in kind.model_fields]
    found = [f"'{name}.{key}'" for name in has[:3]]
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _told(error: ErrorDetails) -> str:
    """One of pydantic's errors in one line, with the value that may have been meant."""
    path = error["loc"]
    if error["type"] == "extra_forbidden":
        return _no_key(path, _model_of(path[:-1]))
    context = error.get("ctx", {})
    expected = str(context.get("expected") or context.get("expected_tags") or "")
    given = str(context.get("tag") or error["input"])
    hint = suggestion(given, re.findall(r"'([^']*)'", expected))
    if error["type"] == "string_type":
        hint = " (put it in quotes)"
    said = error["msg"].removeprefix("Value error, ")
    where = f"{'.'.join(map(str, path))}: " if path else ""  # what two sections say names both
    return f"{where}{said}{hint}"


def _model_of(path: Path) -> type[BaseModel]:
    """The class of the settings at a path of pydantic's, which has a source's kind too."""
    found: type[BaseModel] = Recipe
    for part in map(str, path):
        if part in found.model_fields:
            found = next(_models(found.model_fields[part].annotation), found)
        else:
            found = source_kinds().get(part, found)  # else a number in a list
    return found


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
