"""A store that was copied elsewhere: it verifies, answers SQL, and its artifacts can be remade."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from kontext.engine.remake import import_artifacts, rebuild_catalog, remake
from kontext.errors import ArtifactError
from kontext.safety.keys import KEY_FILE
from kontext.safety.ledger import Ledger
from kontext.safety.ledger_check import check_ledger
from kontext.stages import STAGES
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.artifacts.garbage import collect_garbage
from kontext.store.catalog.catalog import Catalog
from kontext.store.objects import open_store
from tests.store.test_index_stage import engine, run_all, toy_code


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and a home that hold two dataset versions."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        code, url = toy_code(folder / "code", patch), f"file://{folder}/store"
        run_all(engine(code, url))
        run_all(engine(code, url, "mine.seed=3"))
    return folder


@pytest.fixture
def made(two_versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """A copy of it; the graph of the library is the toy graph meanwhile."""
    shutil.copytree(two_versions, tmp_path, dirs_exist_ok=True)
    first = engine(toy_code(tmp_path / "code", monkeypatch), f"file://{tmp_path}/store")
    first.catalog.move()
    for name, stage in first._stages.items():
        monkeypatch.setitem(STAGES, name, stage)
    return first.artifacts


@pytest.mark.parametrize("kind", ["file", pytest.param("s3", marks=pytest.mark.s3)])
def test_a_copy_verifies_answers_and_can_be_made_again(
    kind: str,
    made: ArtifactStore,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "new-home"
    home.mkdir()
    if kind == "file":  # any tool may copy a store
        shutil.copytree(tmp_path / "store", tmp_path / "copy")
        shutil.copy(tmp_path / "home" / KEY_FILE, home / KEY_FILE)
        copy = ArtifactStore(open_store(f"file://{tmp_path}/copy"), home / "cache")
        (tmp_path / "store").rename(tmp_path / "gone")
    else:
        copy = ArtifactStore(open_store(request.getfixturevalue("s3_url")), home / "cache")
        import_artifacts(made, copy, None, home=home)
    assert copy.verify().problems == () and len(copy.list()) == 11  # one ingest, twice the rest
    assert check_ledger(Ledger(copy.objects, home), copy).problems == ()

    catalog = Catalog(home / "catalog.sqlite", copy.objects.url)
    monkeypatch.setenv("KONTEXT_HOME", str(home))
    command = ["catalog", "rebuild", "--json", "--store", copy.objects.url]
    rebuilt = json.loads(CliRunner().invoke(cli.app, command).stdout)
    assert rebuilt == {"runs": 11, "datasets": ["ci@v1", "ci@v2"], "different": [], "votes": 0}
    count = "select count(*) as n from pairs"
    assert catalog.query(count)["n"].to_pylist() == [9]
    assert catalog.query(count, at="ci@v1")["n"].to_pylist() == [6]
    found = {d.dataset_digest for d in catalog.datasets()}
    assert found == {m.metrics["dataset_digest"] for m in copy.list("index")}
    with pytest.raises(ArtifactError, match="rebuild into an empty one"):
        rebuild_catalog(copy, catalog, home, STAGES)

    for manifest in copy.list():
        if manifest.stage != "index" and (kind == "file" or manifest.stage == "mine"):
            again = remake(copy, f"{manifest.stage}/{manifest.digest}", home, STAGES)
            assert again.files > 0 and again.different == () and not again.code_changed
    assert not list((home / "scratch").iterdir())


def test_remake_says_what_differs(
    made: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toy_data

    monkeypatch.setattr(toy_data, "dataset", lambda pairs, policy: _other(pairs + 1))
    found = remake(made, "mine", tmp_path / "home", STAGES)
    assert found.different == ("pairs.parquet",)
    with pytest.raises(ArtifactError, match="kontext catalog rebuild"):
        remake(made, "index", tmp_path / "home", STAGES)


def _other(pairs: int) -> object:
    from tests.store.lake_rows import dataset

    return dataset(pairs, {})


def test_gc_keeps_every_dataset_version(made: ArtifactStore, tmp_path: Path) -> None:
    from datetime import timedelta

    catalog = Catalog(tmp_path / "home" / "catalog.sqlite", made.objects.url)
    for tag in made.tags():
        made.untag(tag)
    keep = catalog.referenced()
    assert {stage for stage, _ in keep} == set(STAGES) & {m.stage for m in made.list()}
    assert len(collect_garbage(made, grace=timedelta(0), keep=()).artifacts) == 11
    assert collect_garbage(made, grace=timedelta(0), keep=keep).artifacts == ()
