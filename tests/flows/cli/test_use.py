"""Models and datasets by name, the home's default, and what is said of it."""

import json
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from flows import cli
from kontext.edit.weights.folder import ModelSettings, save_model_folder
from kontext.models.autoencoder.network import Autoencoder
from kontext.models.flux.transformer import FluxTransformer
from kontext.store.catalog.catalog import Catalog
from schemas.sections.models import AutoencoderShape
from tasks.workspace import open_artifacts, places
from tests.flows.cli.test_weights import _SHAPE, fails
from tests.store.artifacts.test_defaults import publish
from tests.store.lake_rows import dataset


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a home, and a model folder and a picture beside it."""
    for name in ("KONTEXT_HOME", "KONTEXT_STORE", "KONTEXT_CATALOG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".kontext").mkdir()
    torch.manual_seed(0)
    autoencoder = Autoencoder(AutoencoderShape(ch=8, norm_groups=4), 0.36, 0.11)
    settings = ModelSettings(name="tiny", steps=1)
    save_model_folder(tmp_path / "model", FluxTransformer(_SHAPE), autoencoder, settings)
    Image.new("RGB", (64, 64), "orange").save("in.png")
    return tmp_path


def call(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, [*map(str, words)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_a_model_is_taken_by_its_name_and_by_choice(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    made = call("import", "model", "--name", "bar").stdout
    assert "made for pictures of 64 x 64" in made
    assert "made for pictures of 64 x 64" in call("doctor", "bar").stdout
    for name in ("bar", "model@bar", "import@bar"):
        call("export", name, "-o", f"out-{name}")
        assert json.loads(call("artifacts", "show", name, "--json").stdout)["stage"] == "import"
    edit = ["edit", "in.png", "make it night", "-o", "out.png"]
    assert "no model yet" in fails(monkeypatch, capsys, *edit)  # an import is no default
    assert "no model@foo (known: import@bar)" in fails(monkeypatch, capsys, "use", "model@foo")
    assert "model@bar (imported" in call("use", "model@bar").stdout
    assert call(*edit).stderr.startswith("using model@bar (imported, import/")
    said = call(*edit, "--weights", "bar").stderr  # named: nothing to say of the model
    assert said == "no hash list is configured: only the canary bank is matched\n"
    call("use", "model", "--forget")
    assert "no model yet" in fails(monkeypatch, capsys, *edit)
    call("use", "bar", code=2)


def test_a_test_recipe_is_not_what_is_exported_or_edited_with(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    store = open_artifacts(places())
    for day, (name, recipe) in enumerate((("kontext-demo", "demo"), ("kontext-ci", "ci"))):
        store.tag("latest/publish", *publish(store, name, recipe, day))
    (home / "model").rename("weights")  # a folder of that name would go first
    for name in ("publish", "model"):
        monkeypatch.setattr(sys, "argv", ["kontext", "export", name, "-o", "out"])
        with pytest.raises(SystemExit):
            cli.main()  # its files are no model
        assert "using model@kontext-demo (recipe demo, publish/0000" in capsys.readouterr().err
    assert "publish is publish/" in call("artifacts", "lineage", "publish").stderr
    assert "published model is called 'kontext-ci'" in fails(
        monkeypatch, capsys, "import", "weights", "--name", "kontext-ci"
    )


def test_sql_says_which_dataset_it_read(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    catalog = Catalog(home / ".kontext" / "catalog.sqlite", places().store)
    for name, pairs in (("demo", 6), ("own", 12)):
        catalog.commit_dataset(name, name, dataset(pairs, {}), {})

    def count(*more: str, sql: str = "select count(*) as n from pairs") -> tuple[int, str]:
        result = call("sql", sql, "--json", *more)
        return json.loads(result.stdout)[0]["n"], result.stderr

    assert count() == (
        12,
        "using dataset own (the last that was committed); --dataset names another\n",
    )
    assert count("--dataset", "demo") == (6, "") == count("--at", "demo@v1")
    assert count("--dataset", "all") == (18, "")
    assert count(sql="select count(*) as n from pairs where dataset = 'demo'") == (6, "")
    assert count(sql="select count(*) as n from runs") == (0, "")
    assert "no dataset 'x'" in fails(
        monkeypatch, capsys, "sql", "select 1 from pairs", "--dataset", "x"
    )
    told = call("catalog", "prelude")
    assert told.stderr.startswith("using dataset own") and "dataset = 'own'" in told.stdout
    assert "TEMP VIEW" not in call("catalog", "prelude", "--dataset", "all").stdout


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["sql", "select 1"],
        ["tables"],
        ["explain", "ab"],
        ["report"],
        ["artifacts", "list"],
        ["artifacts", "gc"],
        ["catalog", "export", "demo"],
        ["safety", "verify"],
        ["export", "bar", "-o", "out"],
        ["edit", "in.png", "make it night", "-o", "out.png"],
        ["use"],
        ["export-store", "out"],
    ],
    ids=" ".join,
)
def test_commands_that_read_make_no_home_and_no_store(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str]
) -> None:
    away = home / "away"
    (home / ".kontext").rmdir()
    away.mkdir()
    monkeypatch.chdir(away)
    Image.new("RGB", (64, 64), "orange").save("in.png")
    said = fails(monkeypatch, capsys, *words)
    assert f"there is no kontext home in {away} or above" in said
    said = fails(monkeypatch, capsys, *words, "--store", f"file://{away}/stroe")
    assert f"there is no store at file://{away}/stroe" in said
    assert [path.name for path in away.iterdir()] == ["in.png"]


def test_down_and_plan_do_without_a_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".kontext").rmdir()
    before = sorted(home.iterdir())
    assert "nothing was running: there is no kontext home" in call("down").stdout
    call("plan", "ci")
    assert sorted(home.iterdir()) == before


@pytest.mark.parametrize("words", [["up"], ["run", "--direct"], ["import", "model"]], ids=" ".join)
def test_a_home_that_cannot_be_written_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str]
) -> None:
    (home / ".kontext").rmdir()
    (home / ".kontext").write_text("a file")
    said = fails(monkeypatch, capsys, *words)
    assert f"cannot make the home {home}/.kontext: File exists" in said
    monkeypatch.setenv("KONTEXT_HOME", "/dev/null/home")
    assert "there is no folder /dev/null" in fails(monkeypatch, capsys, *words)


def test_a_full_disk_and_the_like_are_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The limit on a file's size stands for a disk without room: both are an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        said = fails(monkeypatch, capsys, "import", "model")
        sql = fails(monkeypatch, capsys, "catalog", "migrate")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in said and sql
