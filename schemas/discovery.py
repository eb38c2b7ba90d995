"""Plug-ins are found by looking into their package: a new one is a new file, listed nowhere."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def plugins(package: str, attribute: str) -> dict[str, ModuleType]:
    """Name -> module, by name, of the package's modules that define `attribute`.

    A plug-in is named by its file, with dashes for underscores. All modules are imported, so
    what is heavy belongs in their functions.
    """
    files = sorted(found.name for found in pkgutil.iter_modules(import_module(package).__path__))
    modules = {name.replace("_", "-"): import_module(f"{package}.{name}") for name in files}
    return {name: module for name, module in modules.items() if hasattr(module, attribute)}
