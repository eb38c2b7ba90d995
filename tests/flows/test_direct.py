"""`kontext run --direct` in slices of time, and `kontext export-store`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.errors import ArtifactError

runner = CliRunner()


def test_a_run_whose_time_is_up_ends_with_75_and_goes_on(toy: Path) -> None:
    made: list[list[str]] = []
    for _ in range(4):
        result = runner.invoke(cli.app, ["run", "--direct", "--seconds", "0", "--json"])
        told = json.loads(result.stdout)
        made.append([stage["stage"] for stage in told["stages"] if not stage["reused"]])
        assert (result.exit_code, told["state"]) == (75, "STOPPED") or len(made) == 4
    assert result.exit_code == 0 and told["state"] == "COMPLETED"
    assert made == [["ingest"], ["mine"], ["index"], ["distill"]]


def test_a_slice_is_of_a_run_in_this_process(toy: Path) -> None:
    result = runner.invoke(cli.app, ["run", "--seconds", "5"])
    assert result.exit_code == 2 and "needs --direct" in result.output


@pytest.mark.parametrize("name", ["store", "store.tar", "store.tar.xz"])
def test_export_store_writes_what_was_asked_for_and_says_its_size(
    finished: Path, tmp_path: Path, name: str
) -> None:
    words = ["export-store", str(tmp_path / name), "--recipe", "demo", "--no-models", "--json"]
    result = runner.invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [ref.split("/")[0] for ref in told["artifacts"]] == ["ingest", "mine", "index"]
    assert told["mib"] < 1 and (tmp_path / name).exists()


def test_export_store_above_its_limit_or_of_unknown_stages_fails(
    finished: Path, tmp_path: Path
) -> None:
    words = ["export-store", str(tmp_path / "a.tar"), "--recipe", "demo", "--no-models"]
    result = runner.invoke(cli.app, [*words, "--max-mib", "0.001"])
    assert isinstance(result.exception, ArtifactError)
    assert "MiB, above 0.001" in str(result.exception)
    for option in ("--until", "--files-of"):
        assert runner.invoke(cli.app, [*words, option, "nothing"]).exit_code == 2
