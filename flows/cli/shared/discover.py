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
    found = []
    for info in pkgutil.iter_modules(package.__path__):
        if not info.ispkg and not info.name.startswith("_"):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            panel, number = getattr(module, "PLACE", (Panel.OTHER, 0))
            found.append((list(Panel).index(panel), number, info.name, module))
    for panel_number, _, file, module in sorted(found):
        how: dict[str, Any] = {
            "name": file.rstrip("_").replace("_", "-"),
            "rich_help_panel": list(Panel)[panel_number].value,
        }
        if hasattr(module, "app"):
            app.add_typer(module.app, **how)
        else:
            app.command(**how)(getattr(module, file))
