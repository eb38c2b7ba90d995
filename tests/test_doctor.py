"""What `kontext doctor` looks at."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from kontext import doctor
from kontext.doctor import FAIL, OK, check_machine


def test_every_check_says_what_it_found(tmp_path: Path) -> None:
    checks = {check.name: check for check in check_machine(tmp_path, f"file://{tmp_path}/store")}
    assert checks["torch"].state == checks["store"].state == OK
    assert "GB free at" in checks["disk"].found
    assert "conditional puts work" in checks["store"].found
    assert all(check.found for check in checks.values())
    assert all(check.remedy for check in checks.values() if check.state != OK)


def test_a_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (store,) = (c for c in check_machine(tmp_path, f"file://{tmp_path}/file") if c.name == "store")
    assert store.state == FAIL and store.remedy


def test_the_command_shows_a_remedy_under_each_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path))
    (tmp_path / "file").touch()
    monkeypatch.setenv("KONTEXT_STORE", f"file://{tmp_path}/file")
    done = CliRunner().invoke(cli.app, ["doctor"])
    lines = done.output.splitlines()
    where = next(number for number, line in enumerate(lines) if line.startswith("✘  store"))
    assert done.exit_code == 1 and lines[where + 1].strip().startswith("→ ")
    rows = json.loads(CliRunner().invoke(cli.app, ["doctor", "--json"]).output)
    assert {row["name"]: row["state"] for row in rows}["store"] == "fail"
    assert rows[-1]["name"] == "server"


@pytest.mark.parametrize(
    ("version", "state"), [("3.8.8", FAIL), ("3.9.0", FAIL), ("3.9.1", OK), ("3.10.0rc1", OK)]
)
def test_prefect_before_3_9_1_must_be_replaced(
    version: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: version)
    checks = check_machine(tmp_path, f"file://{tmp_path}/store")
    assert next(check.state for check in checks if check.name == "prefect") == state
