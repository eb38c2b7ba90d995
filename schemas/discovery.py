"""Plug-ins are found by looking into their package: a new one is a new file, listed nowhere."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema


@cache
def plugins(package: str, attribute: str) -> dict[str, ModuleType]:
    """Name -> module, by name, of the package's modules that define `attribute`.

    A plug-in is named by its file, with dashes for underscores. All modules are imported, so
    what is heavy belongs in their functions.
    """
    files = sorted(found.name for found in pkgutil.iter_modules(import_module(package).__path__))
    modules = {name.replace("_", "-"): import_module(f"{package}.{name}") for name in files}
    return {name: module for name, module in modules.items() if hasattr(module, attribute)}


@dataclass(frozen=True)
class PluginOf:
    """Annotates a recipe's string: it names a plug-in. Looked up when a recipe is validated."""

    package: str
    attribute: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(plugins(self.package, self.attribute))}

    def _known(self, name: str) -> str:
        known = plugins(self.package, self.attribute)
        if name not in known:
            expected = " or ".join(f"'{option}'" for option in known)
            raise PydanticKnownError("literal_error", {"expected": expected})
        return name
