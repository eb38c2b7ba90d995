"""Commands that read what a run left behind."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from flows import cli

runner = CliRunner()


def test_artifacts_commands(finished: Path) -> None:
    listed = _run("artifacts", "list", "--json")
    made = {row["stage"]: row["digest"] for row in listed}
    assert list(made) == ["ingest", "mine", "index", "distill"]
    shown = _run("artifacts", "show", "mine", "--json")
    assert shown["notes"] == ["a fallback was taken"]
    assert "quality_db" in runner.invoke(cli.app, ["artifacts", "show", "mine"]).output
    above = _run("artifacts", "lineage", "distill", "--json")
    assert {tuple(node) for node in above["nodes"]} == {
        (stage, made[stage]) for stage in ("ingest", "mine", "distill")
    }
    assert _run("artifacts", "verify", "--json")["problems"] == []
    tagged = runner.invoke(
        cli.app, ["artifacts", "tag", "model@best", f"distill/{made['distill']}"]
    )
    assert tagged.exit_code == 0
    assert "model@best" in runner.invoke(cli.app, ["artifacts", "list"]).output
    assert _run("artifacts", "gc", "--json", "--grace", "0h")["deleted"] is False


def test_sql_formats_tables_and_status(finished: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    query = "select stage, count(*) as n from runs group by 1 order by 1"
    assert _run("sql", query, "--json")[0] == {"stage": "distill", "n": 1}
    csv = runner.invoke(cli.app, ["sql", query, "--format", "csv"]).output
    assert csv.splitlines()[:2] == ["stage,n", "distill,1"]
    table = runner.invoke(cli.app, ["sql", query]).output.splitlines()
    assert [line.split() for line in (table[0], table[2])] == [["stage", "n"], ["distill", "1"]]
    out = tmp_path / "answer.parquet"
    assert runner.invoke(cli.app, ["sql", query, "-f", "parquet", "-o", str(out)]).exit_code == 0
    assert pq.read_table(out).num_rows == 4
    assert "runs" in {row["name"] for row in _run("tables", "--json")}
    assert "seconds" in runner.invoke(cli.app, ["tables", "runs"]).output
    states = {row["stage"]: row["state"] for row in _run("status", "--json")["stages"]}
    assert set(states.values()) == {"done"}
    changed = _run("status", "--json", "--set", "mine.seed=9")["stages"]
    assert {row["stage"]: row["state"] for row in changed}["index"] == "stale"


def _run(*arguments: str) -> Any:
    result = runner.invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
