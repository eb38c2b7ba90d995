"""The whole pipeline for real, small: undisturbed on S3, killed at the worst moments in a folder.

Each runs once; what the two made is compared, copied, made again and evaluated again.
"""

import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prefect.client.schemas.objects import State
from typer.testing import CliRunner

from flows import cli
from flows.forms import NightlyForm
from flows.nightly import nightly_evaluation, tagged_engine
from kontext.engine.graph import of_recipe
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter, StageOutcome
from kontext.errors import ArtifactError
from kontext.evaluate.versions import Versions, compare_again
from kontext.stages import STAGES
from kontext.store.catalog.catalog import Catalog
from kontext.store.objects import sha256_file
from schemas.recipes import Recipe, load_recipe
from tasks.workspace import places
from tests.kontext_process import start

SHAPES = '"canvases":[[1,1],[5,3],[3,5],[2,1]]'  # so that every stage meets several sizes
SMALL = (
    'ingest.sources=[{"kind":"dicebear","styles":["toon-head","landscape"],"seeds":5,'
    f'"values_per_attribute":2,{SHAPES}}},'
    f'{{"kind":"signs","scenes":8,"words_per_scene":3,{SHAPES}}}]',
    "ingest.processes=1",
    "mine.pairs_per_category=16",
    "mine.t2i_singles=12",
    'screen.classifiers=["open-nsfw"]',
    "screen.policy=no-nudenet",
    "screen.processes=1",
    "screen.clip_steps=2",
    "shard.test_fraction=0.2",
    "shard.val_fraction=0.2",
    'autoencoder.shape={"ch":8,"norm_groups":4}',
    "autoencoder.batch=4",
    "autoencoder.steps=4",
    "autoencoder.perceptual_start=1",
    "autoencoder.disc_start=2",
    "finetune.t2i_steps=1",
    "finetune.joint_steps=12",
    "finetune.batch=4",
    "finetune.checkpoint_every=2",
    "distill.teacher_edits=8",
    "distill.teacher_steps=2",
    "distill.steps=2",
    "evaluate.items_per_category=4",
    "evaluate.teacher_steps=2",
)
DATASET = ("ingest", "mine", "caption", "screen", "shard", "index")


def small() -> Recipe:
    return load_recipe("ci", SMALL)


HAD = of_recipe(STAGES, small())  # it excludes nothing, so it has no stage exclude


@dataclass(frozen=True)
class Run:
    """A finished run of every stage."""

    url: str
    home: Path
    outcomes: dict[str, StageOutcome]

    def engine(self) -> Engine:
        """Of the recipe that was run."""
        catalog = str(self.home / "catalog.sqlite")
        return Engine(small(), self.url, catalog, self.home, stages=STAGES)


@pytest.fixture(scope="module")
def on_s3(s3_server: str, timed_briefly: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run on the S3 server."""
    home = tmp_path_factory.mktemp("on-s3")
    run = Run(f"s3://kontext-test/{uuid.uuid4().hex[:12]}", home, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KONTEXT_HOME", str(home))
        engine, reporter = run.engine(), Reporter(logging.getLogger("kontext"))
        run.outcomes.update({name: engine.run_stage(name, reporter) for name in HAD})
    return run


@pytest.mark.s3
def test_every_stage_runs_on_s3_and_its_copies_are_as_good(
    on_s3: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(on_s3.home))
    engine = on_s3.engine()
    assert not any(outcome.reused for outcome in on_s3.outcomes.values())
    assert {status.state for status in engine.status()} == {"done"}
    assert engine.run_stage("publish", Reporter(logging.getLogger("kontext"))).reused
    aws_reads_what_was_written(on_s3.url, on_s3.outcomes, tmp_path)

    copies = (f"file://{tmp_path}/copy", f"{on_s3.url}-copy")
    chain = itertools.pairwise((on_s3.url, *copies))  # to a folder, from there to another bucket
    for number, (source, target) in enumerate(chain):
        aws("sync", source.removeprefix("file://"), target.removeprefix("file://"))
        new_home = tmp_path / f"home-{number}"
        new_home.mkdir()
        for name in ("catalog.sqlite", "safety.key"):
            shutil.copy(on_s3.home / name, new_home / name)
        monkeypatch.setenv("KONTEXT_HOME", str(new_home))
        monkeypatch.setenv("KONTEXT_STORE", target)
        a_copy_is_as_good(engine, target, in_a_folder=number == 0)


def aws(*words: str) -> str:
    """Run the `aws s3` command itself; what it printed."""
    program = shutil.which("aws", path=str(Path(sys.executable).parent)) or shutil.which("aws")
    assert program is not None, "the tests need awscli (extra dev)"
    line = [program, "--endpoint-url", os.environ["AWS_ENDPOINT_URL"], "s3", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def aws_reads_what_was_written(
    s3_url: str, outcomes: dict[str, StageOutcome], folder: Path
) -> None:
    keys = [line.split()[3] for line in aws("ls", "--recursive", s3_url).splitlines()]
    assert len([key for key in keys if key.endswith("/manifest.json")]) == len(HAD)
    tar = next(f for f in outcomes["shard"].manifest.files if f.name.startswith("train-"))
    (key,) = [key for key in keys if key.endswith(tar.sha256)]
    bucket = s3_url.removeprefix("s3://").split("/")[0]
    aws("cp", f"s3://{bucket}/{key}", str(folder / "shard.tar"))
    assert sha256_file(folder / "shard.tar") == tar.sha256
    with tarfile.open(folder / "shard.tar") as opened:
        assert any(name.endswith(".tgt.png") for name in opened.getnames())


def kontext(*words: str) -> str:
    """What the command says. Fails unless it exits 0."""
    done = CliRunner().invoke(cli.app, list(words))
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done.stdout


def a_copy_is_as_good(origin: Engine, url: str, in_a_folder: bool) -> None:
    """docs/artifacts.md, "A store elsewhere", on a copy made by another program.

    What the run has not shown on S3 already, training and making artifacts again, is done in the
    folder.
    """
    assert "all match" in kontext("artifacts", "verify")
    assert "the ledger is whole" in kontext("safety", "verify")
    refused = CliRunner().invoke(cli.app, ["sql", "select 1"])
    assert "kontext catalog move" in str(refused.exception)
    kontext("catalog", "move")
    version = origin.catalog.datasets()[0]
    asked = "select category, count(*) as n from train_pairs group by 1 order by 1"
    at = f"{version.name}@v{version.version}"
    told = json.loads(kontext("sql", asked, "--json", "--at", at))
    assert told == origin.catalog.query(asked).to_pylist() and told
    for stage in ("ingest", "train-autoencoder") if in_a_folder else ("shard",):
        assert "all bit-identical" in kontext("artifacts", "rebuild", stage)  # from the manifest
    if in_a_folder:
        trains_again()

    place = places()
    Path(place.catalog).unlink()  # without the SQLite file: from the manifests too
    rebuilt = json.loads(kontext("catalog", "rebuild", "--json"))
    assert rebuilt == {"runs": len(HAD) + 1, "datasets": [at], "different": [], "votes": 0}
    (again,) = Catalog(place.catalog, url).datasets()
    assert again.dataset_digest == version.dataset_digest
    assert json.loads(kontext("sql", asked, "--json")) == told


def trains_again() -> None:
    train = ["--recipe", "ci", "--only", "finetune", "--until", "finetune", "--direct", "--quiet"]
    sets = [part for override in (*SMALL, "finetune.seed=1") for part in ("--set", override)]
    made = json.loads(kontext("run", *train, *sets, "--json"))["stages"]
    assert {row["stage"] for row in made if not row["reused"]} == {"finetune"}
    runs = "select count(*) as n from runs where stage = 'finetune'"
    assert json.loads(kontext("sql", runs, "--json")) == [{"n": 2}]


def ran(home: Path, kill_at: str = "", after: float = 0.0) -> str:
    """`kontext run`; what it said.

    Args:
        kill_at: `kill -9` the process, `after` seconds from the line that holds these words.
    """
    overrides = [part for override in SMALL for part in ("--set", override)]
    words = ["run", "--recipe", "ci", "--direct", *overrides]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KONTEXT_", "AWS_"))}
    process, lines = start(words, {**env, "KONTEXT_HOME": str(home)})
    said = []
    with lines:
        for line in lines:
            said.append(line)
            if kill_at and kill_at in line:
                time.sleep(after)
                process.kill()
                break
    process.join()
    assert process.exitcode == (-signal.SIGKILL if kill_at else 0), "".join(said[-20:])
    return "".join(said)


def dataset_of(engine: Engine) -> dict[str, dict[str, str]]:
    """Stage -> file name -> sha256, for the stages that make the dataset."""
    found = {}
    for stage in DATASET[:-1]:
        manifest = engine.artifacts.manifest(stage, engine.digests()[stage])
        assert manifest is not None
        found[stage] = {file.name: file.sha256 for file in manifest.files}
    index = engine.artifact("index").json("index.json")
    found["index"] = {"dataset_digest": index["dataset_digest"], "version": str(index["version"])}
    return found


@pytest.fixture(scope="module")
def killed(on_s3: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A run in a folder that was killed three times, and what its last process said."""
    home = tmp_path_factory.mktemp("killed")
    shutil.copy(on_s3.home / "safety.key", home / "safety.key")  # HMACs are per home
    ran(home, "mine/", 0.05)
    ran(home, "shard/", 0.05)
    ran(home, "flow step 10")
    return Run(f"file://{home}/store", home, {}), ran(home)


@pytest.mark.s3
def test_killed_in_mine_shard_and_finetune_it_ends_as_if_undisturbed(
    on_s3: Run, killed: tuple[Run, str]
) -> None:
    run, said = killed
    assert "resumed at step" in said
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KONTEXT_HOME", str(run.home))
        made = dataset_of(run.engine())
    assert made == dataset_of(on_s3.engine())


@pytest.mark.s3
@pytest.mark.prefect
def test_a_published_model_is_evaluated_again_at_night(
    on_s3: Run, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last with this store: it adds to it."""
    monkeypatch.setenv("KONTEXT_HOME", str(on_s3.home))
    monkeypatch.setenv("KONTEXT_STORE", on_s3.url)
    engine = on_s3.engine()
    model = f"model@{engine.recipe.publish.name}"
    (published,) = engine.artifacts.list("evaluate")

    def night() -> State[Any]:
        form = NightlyForm.model_construct(model=model, tolerance=0.05, night=7, store="")
        return nightly_evaluation(form, return_state=True)

    fine = night()
    assert fine.is_completed() and "none worse" in str(fine.message)
    _, again = engine.artifacts.list("evaluate")
    assert again.inputs == published.inputs and again.config["night"] == 7
    assert again.config["seed"] == published.config["seed"]
    tables = [engine.artifacts.open("evaluate", m.digest) for m in (published, again)]
    first, second = (made.table("items.parquet") for made in tables)
    assert first.equals(second)  # the very same items, noise and outcomes
    assert {status.state for status in engine.status()} == {"done"}  # nothing was replaced

    def lost(before: pa.Table, after: pa.Table, margin: float) -> Versions:
        """As if every edit had been right when the model was published, and none were now."""
        place = before.schema.get_field_index("success")
        sides = (
            each.set_column(place, "success", pa.array([right] * len(each)))
            for each, right in ((before, True), (after, False))
        )
        return compare_again(*sides, margin)

    monkeypatch.setattr("flows.nightly.compare_again", lost)
    worse = night()
    assert worse.is_failed() and str(worse.message).startswith(f"{model} got worse: ")
    assert len(engine.artifacts.list("evaluate")) == 2  # that night's was there already
    with pytest.raises(ArtifactError, match="'index' is an artifact of index, not a published"):
        tagged_engine("index", "", 7)
