"""No command and no option is lost: those of tests/flows/commands.json are all there.

The file is the list of an earlier version. New commands need no entry. Write it anew with
`python -m tests.flows.cli.test_commands` where something is taken away on purpose.
"""

import json
from pathlib import Path
from typing import Any

import typer.main

from flows import cli

BEFORE = Path(__file__).with_name("commands.json")


def commands(command: Any, path: str = "kontext") -> dict[str, list[str]]:
    """Command path -> the names of its options and arguments, sorted."""
    names = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    found = {path: sorted(names)}
    for name, below in getattr(command, "commands", {}).items():
        found |= commands(below, f"{path} {name}")
    return found


def test_every_command_and_option_of_before_is_there() -> None:
    now = commands(typer.main.get_command(cli.app))
    before: dict[str, list[str]] = json.loads(BEFORE.read_text())
    assert set(before) <= set(now)
    for path, names in before.items():
        assert set(names) <= set(now[path]), path


if __name__ == "__main__":
    BEFORE.write_text(json.dumps(commands(typer.main.get_command(cli.app)), indent=1) + "\n")
