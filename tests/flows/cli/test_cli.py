import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.errors import SafetyRefusal

runner = CliRunner()


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of the real entry point."""
    monkeypatch.setattr(sys, "argv", ["kontext", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "command",
    [
        [],
        *(
            [name]
            for name in (
                "up", "down", "run", "stages", "status", "sql", "tables",
                "explain", "edit", "report", "doctor", "artifacts",
            )
        ),
        *(["artifacts", name] for name in ("list", "show", "lineage", "verify", "tag", "gc")),
        ["safety"],
        ["safety", "verify"],
    ],
)  # fmt: skip
def test_every_command_has_help(command: list[str]) -> None:
    result = runner.invoke(cli.app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--recipe", "nope"],
        ["run", "--only", "nope"],
        ["run", "--set", "distill.nope=1"],
        ["run", "--set", "distill.steps=many"],
        ["run", "--only", "mine", "--from", "mine"],
        ["run", "--from", "distill", "--until", "mine"],
        ["run", "--direct", "--only", "distill", "--until", "mine"],
        ["sql"],
        ["nonsense"],
        ["artifacts", "gc", "--grace", "soon"],
    ],
)
def test_bad_usage_is_exit_2(arguments: list[str], toy: Path) -> None:
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 2, result.output


def test_user_errors_are_one_line_and_exit_1(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(monkeypatch, "sql", "select 1") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: no catalog at")
    assert said.count("\n") == 1


def test_a_refusal_is_exit_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise SafetyRefusal("policy", "refused by the safety policy")

    monkeypatch.setattr(cli, "app", refuse)
    assert _main(monkeypatch) == 3


def test_help_needs_neither_torch_nor_prefect() -> None:
    import subprocess

    code = (
        "import sys; from flows import cli; from typer.testing import CliRunner;"
        "CliRunner().invoke(cli.app, ['run', '--help']);"
        "print([m for m in ('torch', 'prefect', 'duckdb', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_direct_run_then_reuse_then_only(toy: Path) -> None:
    first = _run("run", "--direct", "--json")
    assert [s["stage"] for s in first["stages"]] == ["ingest", "mine", "index", "distill"]
    assert not any(s["reused"] for s in first["stages"])
    again = _run("run", "--direct", "--json")
    assert all(s["reused"] for s in again["stages"])
    assert [s["digest"] for s in again["stages"]] == [s["digest"] for s in first["stages"]]
    changed = _run("run", "--direct", "--json", "--only", "distill", "--set", "distill.seed=1")
    assert [s["stage"] for s in changed["stages"]] == ["distill"]
    assert changed["stages"][0]["digest"] != first["stages"][3]["digest"]
    forced = _run("run", "--direct", "--json", "--from", "index", "--force")
    assert {s["stage"]: s["reused"] for s in forced["stages"]} == {"index": False, "distill": True}


def test_force_with_until_forces_no_later_stage_and_reuse_is_said(toy: Path) -> None:
    _run("run", "--direct", "--json")
    again = runner.invoke(cli.app, ["run", "--direct"])
    assert "nothing to make: all 4 stages are reused" in again.output
    forced = _run("run", "--direct", "--json", "--until", "mine", "--force")
    assert {s["stage"]: s["reused"] for s in forced["stages"]} == {"ingest": False, "mine": False}


def test_a_failed_stage_says_how_to_continue(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / "fail-mine").touch()
    assert _main(monkeypatch, "run", "--direct", "--recipe", "ci", "--set", "mine.seed=3") == 1
    said = capsys.readouterr().err
    assert "stage 'mine' failed: toy mine was told to fail" in said
    assert "continue with: kontext run --recipe ci --set 'mine.seed=3' --direct" in said


def test_only_needs_its_inputs(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(monkeypatch, "run", "--direct", "--only", "distill") == 1
    assert "stage 'distill' needs 'ingest'" in capsys.readouterr().err


def test_verify_finds_a_changed_byte(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("run", "--direct", "--json")
    blob = next(p for p in (toy / "store" / "blobs").rglob("*") if p.is_file())
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[::-1])
    assert _main(monkeypatch, "artifacts", "verify") == 1
    assert "do not match their manifests" in capsys.readouterr().err


def _run(*arguments: str) -> Any:
    result = runner.invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
