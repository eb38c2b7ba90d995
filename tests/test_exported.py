"""An exported store: what is in it, training from it with few packages, in slices, and back."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from kontext.engine.graph import of_recipe
from kontext.engine.remake import import_artifacts
from kontext.engine.run import Engine
from kontext.errors import ArtifactError, RecipeError
from kontext.exported import RECORD, export_store, exported_artifacts
from kontext.safety.ledger import Ledger
from kontext.stages import STAGES
from kontext.store.artifacts.archive import open_exported, write_archive
from kontext.store.artifacts.artifact_store import ArtifactStore
from kontext.store.objects import open_store
from schemas.recipes import load_recipe
from tests.exported_toy import CHANGES, OPTIONS, DataStages, data_store, engine_over, toy_recipe
from tests.light import light_environment, run_light

DATA = ("ingest", "mine", "caption", "screen", "shard", "index")
MADE = ("train-autoencoder", "encode", "finetune", "distill", "evaluate", "publish")
RUN = ("run", "--direct", "--recipe", "ci", *OPTIONS, "--from", "train-autoencoder")


def store_in(folder: Path) -> ArtifactStore:
    return ArtifactStore(open_store(f"file://{folder}"), folder.parent / f"cache-{folder.name}")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> DataStages:
    return data_store(tmp_path_factory.mktemp("origin"))


@pytest.fixture(scope="module")
def exported(origin: DataStages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "store"
    export_store(engine_over(origin), store_in(folder), "index")
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return light_environment(tmp_path_factory.mktemp("light") / "env")


def copied(exported: Path, folder: Path) -> Path:
    """An exported store as it arrives on a machine: all of it, in a folder of its own."""
    archive = folder / "export.tar"
    write_archive(exported, archive)
    subprocess.run(["tar", "-xf", archive.name, "--one-top-level=store"], cwd=folder, check=True)
    return folder / "store"


def light_run(python: Path, store: Path, *more: str) -> subprocess.CompletedProcess[str]:
    where = {"KONTEXT_HOME": str(store.parent / "home")}
    words = ("-m", "flows.cli", *RUN, "--store", f"file://{store}", *more)
    return run_light(python, *words, environment=where)


@pytest.fixture(scope="module")
def whole(exported: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All later stages in one go, by a Python that has eight packages."""
    store = copied(exported, tmp_path_factory.mktemp("whole"))
    done = light_run(python, store)
    assert done.returncode == 0, done.stderr[-3000:]
    return store


def files(store: Path) -> dict[str, str]:
    """SHA-256 of every file the later stages made, without those that hold times."""
    timed = ("latency.json", "report/", "lineage.", "README.md", "dataset_card.md")
    return {
        f"{manifest.stage}/{file.name}": file.sha256
        for manifest in store_in(store).list()
        for file in manifest.files
        if manifest.stage in MADE and not any(part in file.name for part in timed)
    }


def test_the_environment_is_as_light_as_it_says(python: Path) -> None:
    find = "import sys, importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    absent = ["duckdb", "boto3", "cv2", "pdqhash", "matplotlib", "prefect", "webdataset", "httpx"]
    done = run_light(python, "-c", find, *absent, "torch", environment={})
    assert done.stdout.strip() == "['torch']", done.stderr


def test_every_later_stage_runs_with_few_packages(whole: Path) -> None:
    manifests = {m.stage: m for m in store_in(whole).list()}
    assert set(manifests) == {*DATA, *MADE}
    for stage in ("train-autoencoder", "finetune", "distill"):
        assert manifests[stage].kernels["device"] == "cpu"
        assert "duckdb" not in manifests[stage].packages and manifests[stage].packages["torch"]
    assert any("no charts" in note for note in manifests["evaluate"].notes)
    names = {file.name for file in manifests["evaluate"].files}
    assert {"scores.json", "report/index.html"} <= names
    assert store_in(whole).verify().problems == ()


def test_slices_and_a_kill_end_where_an_unbroken_run_does(
    whole: Path, exported: Path, python: Path, tmp_path: Path
) -> None:
    store = copied(exported, tmp_path)
    here = {"KONTEXT_HOME": f"{tmp_path}/home"}
    words = ("-c", SLICES, str(store), "finetune/*/checkpoints/step-*2/manifest", *CHANGES)
    first = run_light(python, *words, environment=here)
    assert first.returncode == -signal.SIGKILL, first.stderr[-3000:]
    assert store_in(store).list("encode") and not store_in(store).list("finetune")
    second = run_light(python, *words[:3], "", *CHANGES, environment=here)
    assert second.returncode == 0, second.stderr[-3000:]
    assert int(second.stdout.split()[-1]) > 4, "every slice should have done one step"
    assert files(store) == files(whole)


SLICES = """
import os, signal, sys, threading, time
from pathlib import Path
from rich.console import Console
from flows.cli.shared.direct import run_direct
from tasks.request import Request

store, kill_at, *changes = sys.argv[1:]
scratch = Path(os.environ["KONTEXT_HOME"], "scratch")

def watch():
    while not list(scratch.glob(kill_at)):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

if kill_at:
    threading.Thread(target=watch, daemon=True).start()
request = Request("ci", tuple(changes), "file://" + store, start="train-autoencoder")
stops = 0
while run_direct(request, 0, Console(stderr=True))["state"] == "STOPPED":
    stops += 1
print(stops)
"""


def test_what_was_trained_comes_back(origin: DataStages, whole: Path, tmp_path: Path) -> None:
    engine = engine_over(origin)
    before = {status.stage: status.state for status in engine.status()}
    had = of_recipe(STAGES, toy_recipe())
    assert all(before[stage] == ("done" if stage in DATA else "missing") for stage in had)
    back = store_in(tmp_path / "back")
    travelled = Engine(
        toy_recipe(),
        f"file://{whole}",
        "",
        tmp_path / "home",
        stages=STAGES,
        pins=exported_artifacts(store_in(whole), toy_recipe(), STAGES),
    )
    export_store(travelled, back, "publish", MADE, models=False)
    write_archive(tmp_path / "back", tmp_path / "back.tar.xz")
    with open_exported(str(tmp_path / "back.tar.xz"), tmp_path) as arrived:
        assert arrived.verify().problems, "the files of the data stages stayed where they are"
        found = import_artifacts(arrived, origin.store, None, home=engine.home)
    assert found.present == len(DATA)
    assert all(status.state == "done" for status in engine.status())
    assert engine.artifacts.verify().problems == ()
    assert Ledger(engine.objects, engine.home).segments() == []  # training decides nothing


def test_files_of_one_stage_alone_are_enough_to_train(
    origin: DataStages, exported: Path, tmp_path: Path
) -> None:
    lean = store_in(tmp_path / "lean")
    export_store(engine_over(origin), lean, "index", ["shard"], models=False)
    whole, part = (
        {p.name for p in (folder / "blobs").rglob("*") if p.is_file()}
        for folder in (exported, tmp_path / "lean")
    )
    shard = {file.sha256 for file in origin.inputs["shard"].manifest.files}
    assert part == shard < whole
    assert not (tmp_path / "lean" / "models").exists()
    assert {m.stage for m in lean.list()} == set(DATA)
    with pytest.raises(ArtifactError):
        lean.open("mine", origin.inputs["mine"].digest).table("pairs.parquet")


def test_a_store_of_another_recipe_is_refused(exported: Path) -> None:
    assert set(exported_artifacts(store_in(exported), toy_recipe(), STAGES)) == set(DATA)
    other = load_recipe("ci", (*CHANGES, "mine.seed=7"))
    with pytest.raises(RecipeError, match=r"exported for recipe ci, whose mine .*\(seed\)"):
        exported_artifacts(store_in(exported), other, STAGES)
    tuned = load_recipe("ci", (*CHANGES, "finetune.lr=0.5"))  # what is not done yet may differ
    assert set(exported_artifacts(store_in(exported), tuned, STAGES)) == set(DATA)


def test_a_store_that_was_not_exported_takes_nothing(origin: DataStages) -> None:
    assert exported_artifacts(origin.store, origin.recipe, STAGES) == {}


def test_a_stage_that_is_not_done_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"'publish' is missing .*--until publish"):
        export_store(engine_over(data_store(tmp_path)), store_in(tmp_path / "x"), "publish")


def test_the_same_export_is_the_same_file(origin: DataStages, tmp_path: Path) -> None:
    exported = tmp_path / "small"
    export_store(engine_over(origin), store_in(exported), "index", models=False)
    for name in ("a.tar.xz", "b.tar.xz", "c.tar"):
        write_archive(exported, tmp_path / name)
    assert (tmp_path / "a.tar.xz").read_bytes() == (tmp_path / "b.tar.xz").read_bytes()
    assert (tmp_path / "a.tar.xz").stat().st_size < (tmp_path / "c.tar").stat().st_size
    with open_exported(str(tmp_path / "a.tar.xz"), tmp_path) as store:
        assert store.verify().problems == ()
        assert json.loads(store.objects.get(RECORD))["recipe"] == "ci"
