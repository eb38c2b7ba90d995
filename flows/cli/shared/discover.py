"""Finds the commands: every file of `flows/cli` is one.

File `report.py` holds a function `report`, which is the command `kontext report`. A file with a
`typer.Typer` named `app` is a group of sub-commands instead. An underscore in a file's name is a
dash in the command's; one at the end only keeps off a word of Python (`import_.py`).
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import typer

from flows.cli.shared.options import Panel


def add_commands(app: typer.Typer, package: ModuleType) -> None:
    """Add every command of a package to `app`, in the order of their `PLACE`s.

    `PLACE = (Panel.RUN, 1)` in a command's file says where `--help` lists it. A command without
    one comes last; equal places are sorted by name.
    """
    files = [info.name for info in pkgutil.iter_modules(package.__path__) if not info.ispkg]
    names = [name for name in files if not name.startswith("_")]
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    for module in sorted(modules, key=_order):
        _add(app, module)


def _place(module: ModuleType) -> tuple[Panel, int]:
    place: tuple[Panel, int] = getattr(module, "PLACE", (Panel.OTHER, 0))
    return place


def _order(module: ModuleType) -> tuple[int, int, str]:
    panel, number = _place(module)
    return list(Panel).index(panel), number, module.__name__


def _add(app: typer.Typer, module: ModuleType) -> None:
    file = module.__name__.rpartition(".")[2]
    how: dict[str, Any] = {
        "name": file.rstrip("_").replace("_", "-"),
        "rich_help_panel": _place(module)[0].value,
    }
    if hasattr(module, "app"):
        app.add_typer(module.app, **how)
    else:
        app.command(**how)(getattr(module, file))
