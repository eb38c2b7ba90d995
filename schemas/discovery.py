"""Plug-ins are found by looking into their package: a new one is a new file, listed nowhere."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType


def modules_with(package: str, attribute: str) -> list[ModuleType]:
    """The package's modules that define `attribute`, by name. Every module is imported once."""
    folders = import_module(package).__path__
    names = sorted(found.name for found in pkgutil.iter_modules(folders))
    modules = [import_module(f"{package}.{name}") for name in names]
    return [module for module in modules if hasattr(module, attribute)]
