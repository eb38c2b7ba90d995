"""infra/backup: what was backed up and put back is whole, and `kontext` goes on from it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli

SCRIPTS = Path(__file__).resolve().parents[2] / "infra" / "backup"


def test_backup_and_restore_keep_every_artifact_and_row(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CliRunner()
    assert runner.invoke(cli.app, ["run", "--direct"]).exit_code == 0
    (toy / "safety.key").write_text("secret")
    listed = runner.invoke(cli.app, ["artifacts", "list", "--json"]).output
    env = {**os.environ, "KONTEXT_HOME": str(toy)}
    saved = tmp_path / "saved"
    subprocess.run([SCRIPTS / "backup.sh", saved], env=env, check=True, capture_output=True)
    refused = subprocess.run(
        [SCRIPTS / "restore.sh", saved], env=env, check=False, capture_output=True, text=True
    )
    assert refused.returncode == 1 and "restore into an empty home" in refused.stderr

    shutil.rmtree(toy)
    subprocess.run([SCRIPTS / "restore.sh", saved], env=env, check=True, capture_output=True)
    assert (toy / "safety.key").stat().st_mode & 0o777 == 0o600
    assert runner.invoke(cli.app, ["artifacts", "list", "--json"]).output == listed
    assert runner.invoke(cli.app, ["artifacts", "verify"]).exit_code == 0
    rows = runner.invoke(cli.app, ["sql", "select count(*) as n from runs", "--format", "csv"])
    assert rows.output.split() == ["n", "4"]
    again = runner.invoke(cli.app, ["run", "--direct"])
    assert again.exit_code == 0 and "done" not in again.output  # everything is reused
