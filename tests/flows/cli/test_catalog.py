"""`kontext catalog …` and `kontext sql --shell` on a finished toy run."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from flows import cli

runner = CliRunner()


def _run(*arguments: str) -> Any:
    result = runner.invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", ["migrate", "rebuild", "move", "compact", "export", "prelude"])
def test_every_command_has_help(name: str) -> None:
    assert "Usage" in _run("catalog", name, "--help")


def test_migrate_and_move(finished: Path) -> None:
    assert "schema version 2" in _run("catalog", "migrate")
    assert "0 dataset versions" in _run("catalog", "move")


def test_the_prelude_file_attaches_the_catalog(finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "prelude.sql"
    _run("catalog", "prelude", "-o", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == _run("catalog", "prelude")
    with duckdb.connect() as connection:
        connection.execute(file.read_text())
        assert connection.execute("SELECT count(*) FROM runs").fetchall() == [(4,)]
        told = "SELECT comment FROM duckdb_tables() WHERE table_name = 'runs'"
        assert connection.execute(told).fetchall() == [("One row per artifact that was made.",)]


def test_compact_says_what_it_would_do(finished: Path) -> None:
    assert "give --delete" in _run("catalog", "compact")
    assert "would go: " not in _run("catalog", "compact", "--delete", "--grace", "12h")
    assert runner.invoke(cli.app, ["catalog", "compact", "--grace", "soon"]).exit_code == 2


def test_errors_are_clear(finished: Path) -> None:
    result = runner.invoke(cli.app, ["catalog", "export", "demo@v1"])
    assert "no dataset version 'demo@v1' (known: none)" in str(result.exception)
    for arguments in (["sql"], ["sql", "select 1", "--shell"]):
        assert runner.invoke(cli.app, arguments).exit_code == 2
