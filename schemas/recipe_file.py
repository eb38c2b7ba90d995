"""Recipes as YAML files: what differs from a named recipe (`from: demo`), or every key.

A file that names no dataset and no model has its own: `NAME` and `kontext-NAME`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from schemas.changes import Change, MisfitError, changed, flat
from schemas.changes import Path as KeyPath
from schemas.paths import seen_from
from schemas.recipe import Recipe
from schemas.recipes import RECIPES
from schemas.sections.weights import weights_seen_from
from schemas.words import NAME, unknown
from schemas.yaml_text import Document, YamlError, inline, parse

CHANGES_RESULTS = False  # a recipe's values are part of every digest

LARGEST = 256 * 1024  # bytes; a recipe with every key has 10,000
FROM = "from"


class RecipeFileError(ValueError):
    """A file is no recipe: one line with the file, the line number where known, and why."""


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file. Raises RecipeFileError."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise RecipeFileError(f"{path}: larger than {LARGEST // 1024} KiB")
        return recipe_from(data.decode("utf-8-sig"), path.stem, path.absolute().parent)
    except OSError as error:
        raise RecipeFileError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeFileError(f"{path}, line {line}: not UTF-8") from error
    except ModuleNotFoundError as error:
        raise RecipeFileError(f"{path}: reading it needs the package PyYAML") from error
    except YamlError as error:
        raise RecipeFileError(f"{path}, line {error.line}: {error}") from error


def recipe_from(text: str, name: str, folder: Path = Path()) -> Recipe:
    """The recipe that a text describes; `name` is its name where the text has none.

    Image folders and given weights are taken from `folder`, because the workers run somewhere
    else.

    Raises YamlError, with a line, for whatever is wrong.
    """
    document = parse(text)
    if not isinstance(document.data, dict):
        raise YamlError(1, "no recipe: write `name: …` and what differs from another recipe")
    data = dict(document.data)
    base = data.pop(FROM, None)
    name = data.setdefault("name", name)
    _place_sources(data.get("ingest"), folder)
    if "weights" in data:
        data["weights"] = weights_seen_from(folder, data["weights"])
    try:
        _check_names(base, name)
        own = [
            Change(("shard", "dataset"), name),
            Change(("publish", "name"), f"kontext-{name}"),
            Change(("as_default",), True),
        ]
        return changed(RECIPES[base]() if base else Recipe(), [*own, *flat(data)])
    except MisfitError as error:
        raise YamlError(_line(document, error.path), str(error)) from error


def _check_names(base: Any, name: Any) -> None:
    if base is not None and str(base) not in RECIPES:
        raise MisfitError((FROM,), unknown("recipe", str(base), RECIPES))
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise MisfitError(
            ("name",), f"name {name!r}: letters, digits, '.', '_' and '-', at most 64"
        )
    if name in RECIPES:
        raise MisfitError(("name",), f"'{name}' is a recipe of kontext's own: take another name")


def _place_sources(ingest: Any, folder: Path) -> None:
    sources = ingest.get("sources") if isinstance(ingest, dict) else None
    for source in sources if isinstance(sources, list) else ():
        path = source.get("path") if isinstance(source, dict) else None
        if isinstance(path, str) and "\0" not in path:  # that the source refuses
            source["path"] = seen_from(folder, path)


def _line(document: Document, path: KeyPath) -> int:
    """The line of the last part of a path that stands in the file."""
    found: KeyPath = ()
    for part in path:  # pydantic's path also has what is in no file, such as a source's kind
        found = (*found, part) if (*found, part) in document.lines else found
    return document.lines.get(found, 1)


def recipe_yaml(recipe: Recipe) -> str:
    """Every key of a recipe with its title, as a file that `read_recipe` takes."""
    return "\n".join(_section(recipe, 0)) + "\n"


def _section(section: BaseModel, indent: int) -> Iterator[str]:
    data, space = section.model_dump(mode="json"), " " * indent
    for key, field in type(section).model_fields.items():
        value, title = getattr(section, key), f"  # {field.title}" if field.title else ""
        if isinstance(value, BaseModel):
            yield f"{space}{key}:{title}"
            yield from _section(value, indent + 2)
        elif data[key] and isinstance(data[key], list) and isinstance(data[key][0], dict):
            yield f"{space}{key}:{title}"
            yield from (f"{space}- {inline(item)}" for item in data[key])
        else:
            yield f"{space}{key}: {inline(data[key])}{title}"


def new_recipe_yaml(name: str, base: str) -> str:
    """A file to start from: named, and with nothing changed yet. Raises YamlError."""
    text = f"""\
# What differs from the recipe `{base}`. `kontext recipe keys` lists what can be changed.
{FROM}: {base}
name: {inline(name)}
shard:
  dataset: {inline(name)}  # `{RECIPES[base]().shard.dataset}` would use the dataset of `{base}`
publish:
  name: {inline(f"kontext-{name}")}
"""
    recipe_from(text, name)
    return text
