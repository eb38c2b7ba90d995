"""`kontext artifacts diff|export|import|rebuild` and what `gc` may take, on a finished toy run."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli

runner = CliRunner()


def _run(*arguments: str) -> Any:
    result = runner.invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _text(*arguments: str) -> str:
    result = runner.invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", ["diff", "export", "import", "rebuild"])
def test_every_command_has_help(name: str) -> None:
    assert "Usage" in _text("artifacts", name, "--help")


def test_diff_says_why_two_artifacts_differ(finished: Path) -> None:
    same = _run("artifacts", "diff", "mine", "mine", "--json")
    assert same["recipe"] == same["data"] == same["code"] == same["metrics"] == []
    told = _text("artifacts", "diff", "ingest", "mine")
    assert told.startswith("ingest/") and "\ndata\n" in told and "mine.seed" in told


def test_export_as_tar_then_import_elsewhere(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tmp_path / "distill.tar"
    done = _run("artifacts", "export", "distill", str(tar), "--json")
    assert [ref.split("/")[0] for ref in done["artifacts"]] == ["ingest", "mine", "distill"]
    folder = tmp_path / "folder"
    _text("artifacts", "export", "distill", str(folder))
    assert "all match" in _text("artifacts", "verify", "--store", f"file://{folder}")
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path / "other"))
    for number, source in enumerate((tar, folder)):
        done = _run("artifacts", "import", str(source), "--json")
        assert (len(done["artifacts"]), done["present"]) == (3, 3 * number)
    assert "all match" in _text("artifacts", "verify")
    assert "bit-identical" in _text("artifacts", "rebuild", "distill")
    result = runner.invoke(cli.app, ["artifacts", "import", str(tmp_path / "none.tar")])
    assert "cannot read" in str(result.exception)


def test_gc_says_what_it_would_do(finished: Path) -> None:
    for words in ([], ["--dry-run"]):
        found = _run("artifacts", "gc", *words, "--json")
        assert found["deleted"] is False and found["unfinished"] == 0
