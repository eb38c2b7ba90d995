"""infra/backup: what was backed up and put back is whole, and `kontext` goes on from it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.safety.chains import FILE, Chains
from kontext.store.catalog.catalog import Catalog
from kontext.store.objects import open_store
from tests.postgres import postgres_binaries
from tests.safety_key import put_key
from tests.store.lake_rows import dataset

BIN = Path(sys.executable).parent
SCRIPTS = Path(__file__).resolve().parents[2] / "infra" / "backup"


def test_backup_and_restore_keep_every_artifact_and_row(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CliRunner()
    put_key(toy)
    assert runner.invoke(cli.app, ["run", "--direct"]).exit_code == 0
    Chains(toy, bytes(32), 30).remember([("a picture", bytes(32), 0.125)])
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
    for name in ("safety.key", FILE):
        assert (toy / name).stat().st_mode & 0o777 == 0o600
    nothing_near = np.full((8, 32), 255, np.uint8)
    assert Chains(toy, bytes(32), 30).began_with("a picture", nothing_near) == 0.125
    assert runner.invoke(cli.app, ["artifacts", "list", "--json"]).output == listed
    assert runner.invoke(cli.app, ["artifacts", "verify"]).exit_code == 0
    rows = runner.invoke(cli.app, ["sql", "select count(*) as n from runs", "--format", "csv"])
    assert rows.output.split() == ["n", "4"]
    again = runner.invoke(cli.app, ["run", "--direct"])
    assert again.exit_code == 0 and "done" not in again.output  # everything is reused


@pytest.mark.s3
def test_a_store_in_s3_with_its_catalog_in_postgres_comes_back(
    s3_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """`aws s3 sync` and `pg_dump`, into another database and back into the emptied bucket."""
    binaries = postgres_binaries()
    assert binaries is not None
    objects = open_store(s3_url)
    catalog = Catalog(postgres_url, s3_url)
    catalog.commit_dataset("demo", "one", dataset(6, {"l1_min": 0.03, "nsfw_max": 0.5}), {})
    home = tmp_path / "home"
    home.mkdir()
    env = {
        **os.environ,
        "PATH": os.pathsep.join([str(binaries), str(BIN), os.environ["PATH"]]),
        "KONTEXT_HOME": str(home),
        "KONTEXT_STORE": s3_url,
        "KONTEXT_CATALOG": postgres_url,
    }
    saved = tmp_path / "saved"
    subprocess.run([SCRIPTS / "backup.sh", saved], env=env, check=True)
    for key in objects.list():
        objects.delete(key)
    empty = f"{postgres_url}_again"
    created = [binaries / "psql", "-q", postgres_url, "-c"]
    subprocess.run([*created, f"CREATE DATABASE {empty.rpartition('/')[2]}"], check=True)
    env["KONTEXT_CATALOG"] = empty
    subprocess.run([SCRIPTS / "restore.sh", saved], env=env, check=True)
    restored = Catalog(empty, s3_url)
    assert [(v.name, v.version) for v in restored.datasets()] == [("demo", 1)]
    count = restored.query("select count(*) as n from pair_facts", at="demo@v1")
    assert count["n"].to_pylist() == [6]
