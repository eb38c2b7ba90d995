"""`kontext recipe`, recipe files in the other commands, completion and `--version`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.cli.shared.complete import complete_key, complete_stage
from kontext.errors import RecipeError
from kontext.store.objects import open_store
from kontext.store.recipes import stored_recipes
from schemas.recipes import RECIPES
from tasks.workspace import resolve_recipe

ROOT = Path(__file__).parents[3]
runner = CliRunner()


def _run(*arguments: str) -> Any:
    result = runner.invoke(cli.app, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def mine(tmp_path: Path, toy: Path) -> Path:
    """A recipe file, as `kontext recipe new` writes it."""
    file = tmp_path / "mine.yaml"
    assert _run("recipe", "new", str(file), "--from", "ci", "--json")["name"] == "mine"
    return file


def test_a_run_needs_its_file_no_longer(mine: Path, toy: Path) -> None:
    mine.write_text(mine.read_text() + "distill:\n  seed: 5\n")
    given = ("--recipe", str(mine))
    assert {row["state"] for row in _run("status", *given, "--json")["stages"]} == {"missing"}
    assert stored_recipes(open_store(f"file://{toy}/store")) == []  # looking stores nothing
    first = _run("run", "--direct", *given, "--json")["stages"]
    (stored,) = stored_recipes(open_store(f"file://{toy}/store"))
    mine.unlink()
    for name in ("mine", stored.reference):
        again = _run("run", "--direct", "--recipe", name, "--json")["stages"]
        assert [(s["digest"], s["reused"]) for s in again] == [(s["digest"], True) for s in first]
    assert _run("artifacts", "show", "mine", "--json")["recipe"] == "mine"
    listed = _run("recipe", "list", "--json")
    assert [row["recipe"] for row in listed] == [*RECIPES, stored.reference]
    assert resolve_recipe("mine", ["distill.seed=6"]).distill.seed == 6


def test_an_exported_store_has_the_recipe(mine: Path, tmp_path: Path) -> None:
    mine.write_text(mine.read_text() + "distill:\n  seed: 5\n")
    _run("run", "--direct", "--recipe", str(mine), "--until", "index", "--json")
    out, given = str(tmp_path / "out"), ("--recipe", str(mine), "--set", "distill.seed=6")
    _run("export-store", out, *given, "--no-models", "--json")
    assert resolve_recipe("mine", (), out).distill.seed == 5  # --set is given again over there
    there = _run("status", "--recipe", "mine", "--store", out, "--json")["stages"]
    assert {s["stage"]: s["state"] for s in there}["index"] == "done"


def test_a_changed_file_does_not_change_what_was_stored(mine: Path, toy: Path) -> None:
    _run("run", "--direct", "--recipe", str(mine), "--only", "ingest", "--json")
    (before,) = stored_recipes(open_store(f"file://{toy}/store"))
    mine.write_text(mine.read_text() + "distill: {seed: 9}\n")
    _run("run", "--direct", "--recipe", str(mine), "--only", "ingest", "--json")
    assert resolve_recipe(before.reference).distill.seed == 0
    assert resolve_recipe("mine").distill.seed == 9


@pytest.mark.parametrize(
    "command",
    ["run", "status", "plan", "report", "refresh", "backfill", "export-store", "recipe show"],
)
def test_a_broken_file_is_one_line_in_every_command(
    command: str, tmp_path: Path, toy: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("from: ci\ndistill:\n  sede: 1\n")
    place = [str(file)] if command in ("plan", "recipe show") else ["--recipe", str(file)]
    extra = [str(tmp_path / "out")] if command == "export-store" else []
    result = runner.invoke(cli.app, [*command.split(), *extra, *place])
    assert isinstance(result.exception, RecipeError), result.output
    assert (
        str(result.exception) == f"{file}, line 3: no key 'sede' in distill; did you mean 'seed'?"
    )


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["run", "--recipe", "dmo"], "'demo'"),
        (["run", "--set", "distill.sede=1"], "'seed'"),
        (["refresh", "--set", "distill.sede=1"], "'seed'"),
        (["backfill", "--recipe", "dmo"], "'demo'"),
        (["run", "--only", "minne"], "'mine'"),
        (["plan", "dmo"], "'demo'"),
        (["recipe", "new", "x.yaml", "--from", "dmo"], "'demo'"),
        (["recipe", "diff", "demo", "h20"], "'h200'"),
    ],
)
def test_a_typo_is_bad_usage_and_says_what_was_meant(
    arguments: list[str], meant: str, toy: Path
) -> None:
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 2 and meant in result.output, result.output


def test_show_diff_and_keys(mine: Path, tmp_path: Path) -> None:
    shown = runner.invoke(cli.app, ["recipe", "show", str(mine), "--set", "distill.seed=4"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(shown.output)
    assert _run("recipe", "diff", str(mine), str(copy), "--json") == [
        {"key": "distill.seed", "before": 0, "after": 4}
    ]
    assert _run("recipe", "show", "ci", "--json") == RECIPES["ci"]().model_dump(mode="json")
    differ = {row["key"] for row in _run("recipe", "diff", "demo", "ci", "--json")}
    assert {"ingest.sources[0].max_concepts", "finetune.category_weights.text"} <= differ
    assert "ingest.sources[0].seed" not in differ
    (row,) = _run("recipe", "keys", "distill.seed", "--json")
    assert (row["type"], row["default"], row["title"]) == ("int", "0", "Seed")
    missed = runner.invoke(cli.app, ["recipe", "keys", "sede"])
    assert "did you mean 'seed'?" in str(missed.exception)


def test_new_overwrites_nothing_and_takes_no_name_of_kontexts(mine: Path, tmp_path: Path) -> None:
    for name, said in (("mine.yaml", "File exists"), ("demo.yaml", "take another name")):
        result = runner.invoke(cli.app, ["recipe", "new", str(tmp_path / name)])
        assert isinstance(result.exception, RecipeError) and said in str(result.exception)
    assert not (tmp_path / "demo.yaml").exists()


def test_keys_and_stages_are_completed() -> None:
    assert {"distill.seed=", "distill.guard.most="} <= set(complete_key("dist"))
    assert complete_key("finetune.optimizer=mu") == ["finetune.optimizer=muon"]
    assert complete_key("finetune.whiten_text=") == [
        "finetune.whiten_text=true",
        "finetune.whiten_text=false",
    ]
    assert complete_key("nothing=") == [] and complete_key("ingest.sources[") == []
    assert complete_stage("ev") == ["evaluate"]


def _completed(home: Path, *words: str) -> list[str]:
    """What bash is given for the last word."""
    code = (
        "import sys; sys.argv = ['kontext']; from flows.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'prefect', 'duckdb') if m in sys.modules])"
    )
    line = {"COMP_WORDS": " ".join(("kontext", *words)), "COMP_CWORD": str(len(words))}
    env = {**os.environ, **line, "_KONTEXT_COMPLETE": "complete_bash", "KONTEXT_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    *found, heavy = done.stdout.split("\n")[:-1]
    assert heavy == "[]" and not done.stderr, done
    return [line for line in found if line]


def test_the_shell_completes_from_the_store_and_imports_nothing_heavy(finished: Path) -> None:
    assert _completed(finished, "run", "--only", "in") == ["ingest", "index"]
    assert "distill.seed=" in _completed(finished, "run", "--set", "dist")
    assert _completed(finished, "run", "--recipe", "d") == ["demo"]
    assert _completed(finished, "artifacts", "show", "min") == ["mine"]
    (ref,) = _completed(finished, "artifacts", "show", "mine/")
    digest = _run("artifacts", "list", "mine", "--json")[0]["digest"]
    assert ref == f"mine/{digest}"


def test_completing_makes_no_store(tmp_path: Path) -> None:
    assert _completed(tmp_path / "home", "artifacts", "show", "mine/") == []
    assert _completed(tmp_path / "home", "run", "--recipe", "h") == ["h200"]
    assert not (tmp_path / "home").exists()


def test_the_version_is_said() -> None:
    import tomllib

    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    result = runner.invoke(cli.app, ["--version"])
    assert result.exit_code == 0 and result.output.startswith(f"kontext {wanted}")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert head.stdout.strip() in result.output


def test_the_commit_of_a_repository_around_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kontext.engine import versions

    for command in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    installed = tmp_path / "site-packages" / "versions.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(versions, "__file__", str(installed))
    assert versions.git_commit.__wrapped__() == ""
