"""What a recipe's dataset and model are called where it does not say so itself.

Nothing of one recipe, or of somebody's own images, is committed or published under the name of
another: a default that names the demo's dataset would let any run replace it.
"""

from collections.abc import Mapping
from typing import Any
from unicodedata import category

from schemas.paths import expanded

CHANGES_RESULTS = False  # names are part of every digest
NAME = r"^\w[\w.-]*$"  # of a dataset or a model: a tag, and a folder in the store
_LETTERS = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd"}  # Unicode's categories
_LONGEST = 40  # letters of a name that is made up from many sources


def named_after_recipe(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, with dataset and model named after it unless they have a name."""
    made = dict(data)
    dataset = made.get("name")
    if isinstance(dataset, str):
        for section, field, name in _fields(dataset):
            given = made.get(section, {})
            if isinstance(given, Mapping):
                made[section] = {field: name, **given}
            elif field not in given.model_fields_set:
                made[section] = given.model_copy(update={field: name})
    return made


def named_after_sources(
    data: dict[str, Any], before: Mapping[str, Any], given: set[str], default: str
) -> None:
    """Give a recipe whose image sources were replaced a dataset and a model of their own.

    Args:
        data: the recipe's fields with the changes, as JSON values; changed in place.
        before: the same without the changes.
        given: the keys that were changed: a name among them stays.
        default: the recipe that is run where none is named; the others add their own name.
    """
    sections = [data.get(section) for section in ("ingest", "shard", "publish")]
    if not all(isinstance(section, dict) for section in sections):
        return  # refused when all changes are checked
    sources = data["ingest"].get("sources")
    if sources == before["ingest"]["sources"]:
        return
    name = _name_of(sources)
    if data["name"] != default or name == before["shard"]["dataset"]:
        name += f"-{data['name']}"
    if {"shard", "shard.dataset"} & given:
        name = str(data["shard"].get("dataset") or name)
    for section, field, own in _fields(name):
        if not {section, f"{section}.{field}"} & given:
            data[section][field] = own


def slug(text: str) -> str:
    """The text as a name, or as part of one: letters, digits, dot, dash and underscore.

    What `NAME` takes: pydantic's regular expressions count fewer signs as letters than Python's.
    """
    fits = (c if category(c) in _LETTERS or c in "_.-" else " " for c in text)
    return "-".join("".join(fits).split()).strip("-.")


def _fields(dataset: str) -> tuple[tuple[str, str, str], ...]:
    return ("shard", "dataset", dataset), ("publish", "name", f"kontext-{dataset}")


def _name_of(sources: Any) -> str:
    """`pictures` for a folder or a file of that name; sources without a path have their kind's."""
    words = []
    for source in sources if isinstance(sources, list) else ():
        if isinstance(source, Mapping):
            path, kind = source.get("path"), str(source.get("kind"))
            # the source itself refuses what is no path
            is_path = isinstance(path, str) and "\0" not in path
            found = expanded(str(path)).resolve() if is_path else None
            own = "" if found is None else found.stem if found.is_file() else found.name
            words.append(slug(own or kind))
    name = "-".join(dict.fromkeys(word for word in words if word))[:_LONGEST].strip("-.")
    return name or "own"
