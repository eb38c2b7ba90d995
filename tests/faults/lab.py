"""The laboratory: a tiny recipe, an undisturbed run of it, and the checks after a fault."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from typer.testing import CliRunner

from flows import cli
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.stages import STAGES
from schemas.recipes import load_recipe

RECIPE = (
    'ingest.sources=[{"kind":"dicebear","styles":["toon-head"],"seeds":6,'
    '"values_per_attribute":2},{"kind":"signs","scenes":8,"words_per_scene":3}]',
    "ingest.chunk_size=16",
    "ingest.processes=1",
    "mine.pairs_per_category=20",
    "mine.t2i_singles=10",
    'screen.classifiers=["open-nsfw"]',
    "screen.policy=no-nudenet",
    "screen.processes=1",
    "screen.clip_steps=1",
    "shard.test_fraction=0.2",
    "shard.val_fraction=0.2",
    "autoencoder.steps=6",
    "autoencoder.checkpoint_every=2",
    "autoencoder.perceptual_start=1",
    "autoencoder.disc_start=2",
    "finetune.t2i_steps=1",
    "finetune.joint_steps=8",
    "finetune.checkpoint_every=2",
)
THREADS = 1
LAST = "finetune"  # what comes after is bound by the same loop and store, and costs minutes
SOFT = ("samples/", "curves", "report/")  # files that may hold times


class Trouble(AssertionError):
    """What a case found wrong."""


@dataclass
class Lab:
    """Homes by the stage that was finished last, and the digests of the undisturbed run."""

    root: Path
    digests: dict[str, dict[str, str]] = field(default_factory=dict)

    def home_after(self, stage: str, name: str) -> Path:
        """A fresh home in which everything up to `stage` is done (empty for '').

        The former lies where the undisturbed run was: a catalog knows the path of its data.
        """
        home = self.root / "home" if stage else self.root / "cases" / name
        shutil.rmtree(home, ignore_errors=True)
        if stage:
            shutil.copytree(self.root / "after" / stage, home)
        else:
            home.mkdir(parents=True)
            shutil.copy(self.root / "after" / "ingest" / "safety.key", home / "safety.key")
        return home

    def prepare(self) -> None:
        """The undisturbed run, with a copy of its home after each stage."""
        torch.set_num_threads(THREADS)  # as the commands have it: sums depend on it
        shutil.rmtree(self.root, ignore_errors=True)
        home = self.root / "home"
        home.mkdir(parents=True, exist_ok=True)
        reporter = Reporter(logging.getLogger("kontext"))
        for stage in STAGES:
            engine_of(home).run_stage(stage, reporter)
            shutil.copytree(home, self.root / "after" / stage)
            if stage == LAST:
                break
        self.digests = outputs(home, LAST)


def line(until: str, *extra: str) -> list[str]:
    """The command of every case: `kontext run --direct` on the tiny recipe."""
    sets = [part for override in RECIPE for part in ("--set", override)]
    return ["run", "--direct", "--recipe", "ci", *sets, "--until", until, *extra]


def environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A clean environment for a home."""
    dropped = ("KONTEXT_", "PREFECT_", "AWS_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    env.update(KONTEXT_HOME=str(home), OMP_NUM_THREADS=str(THREADS), PYTHONUNBUFFERED="1")
    return {**env, **(extra or {})}


def run(
    home: Path,
    until: str,
    *,
    env: Mapping[str, str] | None = None,
    extra: tuple[str, ...] = (),
    prefix: tuple[str, ...] = (),
    expect: int | None = 0,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end. Raises Trouble unless it exits with `expect`."""
    command = [*prefix, sys.executable, "-m", "flows.cli", *line(until, *extra)]
    done = subprocess.run(
        command, env=environment(home, env), capture_output=True, text=True, check=False
    )
    if expect is not None and done.returncode != expect:
        raise Trouble(f"exit {done.returncode} instead of {expect}: {tail(done)}")
    return done


def bombed(home: Path, until: str, point: str, count: int = 1) -> None:
    """Run the command with a bomb; it must go off."""
    command = [sys.executable, "-m", "tests.faults.child", point, str(count), "--", *line(until)]
    done = subprocess.run(
        command, env=environment(home), capture_output=True, text=True, check=False
    )
    if done.returncode != -9:
        raise Trouble(f"the bomb at {point} did not go off: exit {done.returncode}: {tail(done)}")


def tail(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a command said."""
    lines = (done.stderr or done.stdout or "nothing").strip().splitlines()
    return lines[-1][:300] if lines else "nothing"


def engine_of(home: Path, store: str = "", recipe: Sequence[str] = RECIPE) -> Engine:
    """The engine of the tiny recipe, or of `ci` with other changes, over a home."""
    url = store or f"file://{home}/store"
    return Engine(load_recipe("ci", recipe), url, str(home / "catalog.sqlite"), home, stages=STAGES)


def outputs(
    home: Path, until: str, store: str = "", recipe: Sequence[str] = RECIPE
) -> dict[str, dict[str, str]]:
    """Stage -> file name -> SHA-256, up to a stage; for index the dataset's digest."""
    engine = engine_of(home, store, recipe)
    found: dict[str, dict[str, str]] = {}
    for stage, digest in engine.digests().items():
        manifest = engine.artifacts.manifest(stage, digest)
        if manifest is None:
            raise Trouble(f"{stage}/{digest} was not made")
        if stage == "index":
            index = engine.artifacts.open(stage, digest).json("index.json")
            found[stage] = {"dataset_digest": index["dataset_digest"]}
        else:
            files = [f for f in manifest.files if not f.name.startswith(SOFT)]
            found[stage] = {file.name: file.sha256 for file in files}
        if stage == until:
            return found
    raise Trouble(f"no stage '{until}'")


def check(lab: Lab, home: Path, until: str, store: str = "") -> None:
    """After the same command has completed: equal bytes, clean store, clean ledger.

    Raises Trouble with the first difference.
    """
    for stage, files in outputs(home, until, store).items():
        for name, sha256 in files.items():
            if lab.digests[stage].get(name) != sha256:
                raise Trouble(f"{stage}: {name} differs from the undisturbed run")
        if set(files) != set(lab.digests[stage]):
            raise Trouble(f"{stage}: other files than the undisturbed run")
    clean(home, store)


def clean(home: Path, store: str = "") -> None:
    """`artifacts verify` and `safety verify` find nothing. Raises Trouble with what they say."""
    for group in ("artifacts", "safety"):
        words = [group, "verify", "--store", store or f"file://{home}/store"]
        said = CliRunner().invoke(cli.app, words, env={"KONTEXT_HOME": str(home)})
        if said.exit_code:
            raise Trouble(f"{group} verify: {said.exception} {said.output.strip()}")
