"""`kontext source` and `kontext run --source`: a user's own files, by their path alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.cli.shared import opened, own_data
from kontext.errors import SourceError
from schemas.recipes import RECIPES, load_recipe
from tests.data.layouts.files import put

runner = CliRunner()


def pairs(root: Path) -> Path:
    files = {f"control/{n}.png": n for n in range(4)} | {f"target/{n}.png": 9 + n for n in range(4)}
    return put(root, files | {f"target/{n}.txt": f"make it no. {n}" for n in range(3)})  # type: ignore[arg-type]


def test_inspect_says_what_it_is_and_what_is_missing(tmp_path: Path) -> None:
    root = pairs(tmp_path / "mine")
    found = runner.invoke(cli.app, ["source", "inspect", str(root), "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert (said["layout"], said["pictures"], said["pairs"]) == ("paired-folders", 6, 3)
    assert said["source"]["path"] == str(root)
    assert said["skipped"] == {"instruction_missing": 1, "pair_left_out": 1}
    table = runner.invoke(cli.app, ["source", "inspect", str(root)])
    for text in (
        "paired-folders",
        "make it no. 1",
        "1 pair has no instruction",
        "kontext run --source",
    ):
        assert text in table.output
    assert said["licences"] == {"LicenseRef-unknown": 6}
    assert "nothing says the licence of 6 of 6 pictures" in table.output
    assert list(root.rglob("*"))  # nothing is moved or written


def test_an_unknown_layout_shows_the_known_ones(tmp_path: Path) -> None:
    put(tmp_path / "texts", {"a.txt": "x"})
    result = runner.invoke(cli.app, ["source", "inspect", str(tmp_path / "texts")])
    assert isinstance(result.exception, SourceError)
    assert "pairs/control/cat.png" in str(result.exception)
    drawn = runner.invoke(cli.app, ["source", "layouts"])
    assert drawn.exit_code == 0 and "pairs/control/cat.png" in drawn.output


def test_run_reads_these_sources_and_no_others(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pairs(tmp_path / "mine")
    put(tmp_path / "art", {"a__color=red.png": 30, "a__color=blue.png": 31})
    for more, dataset in (([], "mine-art"), (["--name", "cats"], "cats")):
        sources = ["--source", str(root), "--source", str(tmp_path / "art")]
        run = ["run", "--direct", "--json", "--until", "ingest", *sources, *more]
        result = runner.invoke(cli.app, run)
        assert result.exit_code == 0, result.output
        assert f"dataset {dataset}, model kontext-{dataset}" in result.stderr
        assert "paired-folders; 6 pictures, 3 edits" in result.stderr
        (row,) = json.loads(result.stdout)["stages"]
        assert row["stage"] == "ingest"


def test_the_changes_that_a_path_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pairs(tmp_path / "mine")
    first, *names = own_data.overrides([str(root)], "cats")
    key, _, text = first.partition("=")
    sources: list[dict[str, Any]] = json.loads(text)
    assert key == "ingest.sources" and [source["kind"] for source in sources] == ["pairs"]
    assert names == ["shard.dataset=cats", "publish.name=kontext-cats", "ingest.sizes=kontext"]
    assert "1 pair has no instruction and is left out" in capsys.readouterr().err
    own_data.overrides([str(put(tmp_path / "art", {"a__color=red.png": 30}))], "")
    assert '"kind": "folder"' in capsys.readouterr().err  # how to name its licence
    assert own_data.overrides(None, "") == []


def test_own_pictures_keep_their_shapes_unless_the_recipe_or_the_user_names_sizes(
    tmp_path: Path, toy: Path
) -> None:
    root = str(pairs(tmp_path / "mine"))
    listed = tmp_path / "listed.yaml"
    listed.write_text("from: demo\ningest: {sizes: [[64, 96], [96, 64]]}\n")
    cases = (
        ([], "13 sizes, 48 x 112 to 112 x 48 px (ingest.sizes=kontext)"),
        (["--set", "ingest.resolution=128"], "17 sizes, 80 x 192 to 192 x 80 px"),
        (["--set", "ingest.sizes=square"], "cut to squares of 64 px"),
        (["--recipe", str(listed)], "2 sizes, 64 x 96 to 96 x 64 px (ingest.sizes=a list)"),
    )
    for more, said in cases:
        run = ["run", "--direct", "--until", "ingest", "--source", root, *more]
        result = runner.invoke(cli.app, run)
        assert result.exit_code == 0 and said in result.stderr, result.output
    demo = runner.invoke(cli.app, ["run", "--direct", "--until", "ingest"])
    assert "pictures" not in demo.stderr.partition("model kontext-demo")[2].splitlines()[0]
    assert load_recipe("demo").ingest.sizes == "square"


def test_every_recipe_takes_the_sizes_of_own_pictures() -> None:
    for name in RECIPES:
        assert load_recipe(name, ("ingest.sizes=kontext",)).ingest.sizes == "kontext"


def test_an_address_stays_one_and_a_path_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = ("s3://bucket/prefix", "photos", "/photos")
    sources = [{"kind": "folder", "path": path} for path in paths]
    (made,) = opened.absolute_sources([f"ingest.sources={json.dumps(sources)}"])
    found = [source["path"] for source in json.loads(made.partition("=")[2])]
    assert found == ["s3://bucket/prefix", str(tmp_path / "photos"), "/photos"]


def test_given_weights_become_absolute_however_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flux").mkdir()
    here = str(tmp_path / "flux")
    parts = {"transformer": "flux", "autoencoder": "model@other", "text": ""}
    for value, found in (
        ("flux", here),
        ('"flux"', json.dumps(here)),
        ("model@other", "model@other"),
        (json.dumps(parts), json.dumps({**parts, "transformer": here})),
        ("null", "null"),  # refused elsewhere
    ):
        assert opened.absolute_sources([f"weights={value}"]) == [f"weights={found}"]
    assert opened.absolute_sources(["weights.text=flux"]) == [f"weights.text={here}"]


@pytest.mark.parametrize(
    "arguments", [["--name", "cats"], ["--source", ".", "--name", "../cats"], ["--source"]]
)
def test_bad_usage(arguments: list[str], toy: Path) -> None:
    assert runner.invoke(cli.app, ["run", *arguments]).exit_code == 2
