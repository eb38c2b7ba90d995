"""The `kontext` command: every file here is one command, or one group of sub-commands.

A new command is a new file with a function of its name (see `flows.cli.shared.discover`); nothing
lists it. May import `flows.cli.shared`, and what is heavy (torch, prefect, duckdb) only inside the
command, so that `kontext --help` answers at once.

Every command answers `--help`; data is printed as JSON with `--json`. Exit codes: 0 done, 1 failed
(one clear line), 2 bad usage, 3 refused by the safety policy, 75 the time was up
(run it again).
"""

import os
import sys
from typing import Annotated

import typer

from flows.cli.shared.discover import add_commands
from kontext.errors import KontextError

app = typer.Typer(
    name="kontext",
    help="Relational pairs, safety, shards, SQL, flow training, LADD and evaluation under Prefect.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_commands(app, sys.modules[__name__])


def _version(wanted: bool) -> None:
    if wanted:
        from kontext.engine.versions import git_commit, kontext_version

        commit = git_commit()
        typer.echo(f"kontext {kontext_version()}{f' ({commit})' if commit else ''}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which it is.")
    ] = False,
) -> None:
    """Options of `kontext` itself."""


def main() -> None:
    """Entry point: user errors end in one line, never in a traceback."""
    try:
        app()
    except KontextError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `kontext … | head`: nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # a disk that is full, a folder that is read-only or no folder
        what = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {what}{error.strerror or error}", err=True)
        sys.exit(KontextError.exit_code)
