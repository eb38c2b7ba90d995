"""Plug-ins are found by looking into their package: a new one is a new file, listed nowhere."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from schemas.syntax import syntax_tree


@cache
def plugins(package: str, attribute: str) -> dict[str, ModuleType]:
    """Name -> module, by name, of the package's modules that define `attribute`.

    A plug-in is named by its file, with dashes for underscores. A file is imported where a line of
    it begins by defining the attribute, so what is heavy belongs in its functions. The others, and
    the package where no file does, are not imported.
    """
    modules = {name: import_module(f"{package}.{name}") for name in _files(package, attribute)}
    return {
        plugin_name(name): module for name, module in modules.items() if hasattr(module, attribute)
    }


def plugin_name(module: str) -> str:
    """What a recipe calls a plug-in: the name of its file, with dashes."""
    return module.rpartition(".")[2].replace("_", "-")


def literals(package: str, attribute: str) -> dict[str, Any]:
    """Module -> the literal that its file assigns to `attribute`. Nothing is imported."""
    return {
        f"{package}.{name}": ast.literal_eval(node.value)
        for name, source in _files(package, attribute).items()
        for node in syntax_tree(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == attribute
    }


@cache
def _files(package: str, attribute: str) -> dict[str, str]:
    """Name -> text, by name, of the package's files with a line that begins by defining it."""
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None, package
    defines = re.compile(rf"^(class |def )?{attribute}\b", re.MULTILINE)
    paths = [p for each in spec.submodule_search_locations for p in Path(each).glob("[!_]*.py")]
    files = {path.stem: path.read_text("utf-8") for path in sorted(paths)}
    return {name: text for name, text in files.items() if defines.search(text)}


@dataclass(frozen=True)
class PluginOf:
    """Annotates a recipe's string: it names a plug-in. Looked up when a recipe is validated."""

    package: str
    attribute: str

    def __get_pydantic_core_schema__(self, of: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(of))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "enum": self._names()}

    def _names(self) -> list[str]:
        return list(plugins(self.package, self.attribute))

    def _known(self, name: str) -> str:
        known = self._names()
        if name not in known:
            expected = " or ".join(f"'{option}'" for option in known)
            raise PydanticKnownError("literal_error", {"expected": expected})
        return name


@dataclass(frozen=True)
class DeclaredIn(PluginOf):
    """As `PluginOf`, of plug-ins too heavy for a recipe: a literal tells them, none is imported."""

    def _names(self) -> list[str]:
        return [plugin_name(module) for module in literals(self.package, self.attribute)]
