"""Every key of a recipe: what `kontext recipe keys` lists and the shell completes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from schemas.recipe import Recipe
from schemas.yaml_text import inline

CHANGES_RESULTS = False  # texts for people

_TYPES = {"integer": "int", "number": "float", "string": "text", "boolean": "true or false"}
_BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}"}
_BOUNDS |= {"exclusiveMaximum": "< {}", "multipleOf": "multiple of {}"}
_UNIT = re.compile(r", (?:in ([a-z]+(?: [a-z]+)?)(?= of |,| [(]|$)|(per step))")


@dataclass(frozen=True)
class Key:
    """One key. One in `[…]` is of a list's entries and is set with the whole list."""

    key: str
    type: str
    default: str  # as a recipe file has it; empty: it must be given
    unit: str
    title: str
    choices: tuple[str, ...] = ()  # all values that there are, where they can be counted


def recipe_keys(part: str = "") -> list[Key]:
    """The keys with `part` in their name or title, in the order of a recipe file."""
    schema = Recipe.model_json_schema()
    found = _keys("", schema, Recipe().model_dump(mode="json"), schema["$defs"])
    wanted = part.lower()
    return [key for key in found if wanted in key.key.lower() or wanted in key.title.lower()]


def _keys(above: str, section: Any, defaults: Any, models: Any) -> Iterator[Key]:
    """The keys of a section, and of the entries of its lists, given its defaults."""
    for name, field in section["properties"].items():
        path = f"{above}.{name}" if above else name
        if model := _model(field, models):
            yield from _keys(path, model, defaults.get(name, {}), models)
        elif "const" not in field:
            default = defaults.get(name, field.get("default", ...))
            title = str(field.get("title", ""))
            unit = _UNIT.search(title)
            kept = "" if default is ... else inline(default)
            named = (unit[1] or unit[2]) if unit else ""
            choices = ("true", "false") if field.get("type") == "boolean" else field.get("enum", ())
            yield Key(path, _type(field, models), kept, named, title, tuple(choices))
            for kind, entry in _entries(field.get("items", {}), models).items():
                yield from _keys(f"{path}[{kind}]", entry, {}, models)


def _model(field: Any, models: Any) -> Any:
    reference = field.get("$ref", "")
    return models[reference.rpartition("/")[2]] if reference else None


def _entries(items: Any, models: Any) -> dict[str, Any]:
    """The sections that a list may have, by what their `kind` is; empty for a list of values."""
    if mapping := items.get("discriminator", {}).get("mapping"):
        return {kind: _model({"$ref": to}, models) for kind, to in mapping.items()}
    found = _model(items, models)
    return {"": found} if found else {}


def _type(field: Any, models: Any) -> str:
    """What a value must be, in a few words."""
    if choices := field.get("enum"):
        return " | ".join(map(str, choices))
    if options := field.get("anyOf"):
        return " or ".join(_type(option, models) for option in options)
    if parts := field.get("prefixItems"):
        return f"[{', '.join(_type(part, models) for part in parts)}]"
    kind = field.get("type", "")
    if kind == "array":
        items = field.get("items", {})
        entries = " | ".join(filter(None, _entries(items, models)))
        return f"list of {entries or _type(items, models)}".removesuffix(" of ")
    if kind == "object":
        return f"text: {_type(field['additionalProperties'], models)}, …"
    bounds = [text.format(field[name]) for name, text in _BOUNDS.items() if name in field]
    return ", ".join([_TYPES.get(kind, kind), *bounds])
