"""The whole pipeline for real, small: on a real S3 server, and killed at the worst moments."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

from kontext.engine import Engine
from kontext.remake import import_artifacts, rebuild_catalog, remake
from kontext.stage import LogReporter
from kontext.stages import STAGES
from kontext.store.artifacts import ArtifactStore
from kontext.store.catalog import Catalog
from kontext.store.objects import open_store
from schemas.recipes import Recipe, load_recipe

SMALL = (
    'ingest.sources=[{"kind":"dicebear","styles":["toon-head","landscape"],"seeds":6,'
    '"values_per_attribute":2},{"kind":"signs","scenes":8,"words_per_scene":3}]',
    "ingest.processes=1",
    "mine.pairs_per_category=40",
    "mine.t2i_singles=30",
    'screen.classifiers=["open-nsfw"]',
    "screen.policy=no-nudenet",
    "screen.processes=1",
    "screen.clip_steps=2",
    "shard.test_fraction=0.2",
    "shard.val_fraction=0.2",
    "autoencoder.steps=4",
    "autoencoder.perceptual_start=1",
    "autoencoder.disc_start=2",
    "finetune.t2i_steps=1",
    "finetune.joint_steps=30",
    "finetune.checkpoint_every=2",
    "distill.teacher_edits=8",
    "distill.teacher_steps=2",
    "distill.steps=2",
    "evaluate.items_per_category=4",
    "evaluate.bootstrap=20",
)
DATASET = ("ingest", "mine", "caption", "screen", "shard", "index")


def small() -> Recipe:
    return load_recipe("ci", SMALL)


@pytest.mark.s3
def test_every_stage_runs_on_s3_and_an_ordinary_client_reads_it(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONTEXT_HOME", str(tmp_path))
    engine = Engine(small(), s3_url, str(tmp_path / "catalog.sqlite"), tmp_path)
    import logging

    reporter = LogReporter(logging.getLogger("kontext"))
    outcomes = {name: engine.run_stage(name, reporter) for name in STAGES}
    assert not any(outcome.reused for outcome in outcomes.values())
    assert {status.state for status in engine.status()} == {"done"}
    assert engine.run_stage("publish", reporter).reused

    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    keys = [
        item["Key"]
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for item in page.get("Contents", ())
    ]
    manifests = [key for key in keys if key.endswith("/manifest.json")]
    assert len(manifests) == len(STAGES)
    tar = next(f for f in outcomes["shard"].manifest.files if f.name.startswith("train-"))
    (key,) = [key for key in keys if key.endswith(tar.sha256)]
    client.download_file(bucket, key, str(tmp_path / "shard.tar"))
    listed = subprocess.run(
        ["tar", "-tf", str(tmp_path / "shard.tar")], capture_output=True, text=True, check=True
    ).stdout.split()
    assert any(name.endswith(".tgt.png") for name in listed)
    assert engine.artifacts.verify().problems == ()
    assert engine.ledger.verify().problems == ()
    rows = engine.catalog.query("select count(*) as n from train_pairs").to_pylist()
    assert rows[0]["n"] > 0
    a_copy_elsewhere_is_as_good(engine, tmp_path)


def a_copy_elsewhere_is_as_good(engine: Engine, home: Path) -> None:
    """It verifies, answers SQL, and its manifests are enough to make its bytes again."""
    copy = ArtifactStore(open_store(f"file://{home}/copy"), home / "copy-cache")
    import_artifacts(engine.artifacts, copy, None)
    assert copy.verify().problems == () and len(copy.list()) == len(STAGES)
    catalog = Catalog(home / "copy.sqlite", copy.objects.url)
    assert rebuild_catalog(copy, catalog, home).different == ()
    (version,) = catalog.datasets()
    assert version.dataset_digest == engine.catalog.datasets()[0].dataset_digest
    count = "select count(*) as n from train_pairs"
    assert catalog.query(count).equals(engine.catalog.query(count))
    for stage in ("mine", "shard", "train-autoencoder"):
        again = remake(copy, stage, home)
        assert again.different == () and not again.code_changed, stage


def command(home: Path) -> tuple[list[str], dict[str, str]]:
    overrides = [part for override in SMALL for part in ("--set", override)]
    line = [sys.executable, "-m", "flows.cli", "run", "--recipe", "ci", "--direct", *overrides]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("KONTEXT_", "AWS_"))}
    return line, {**env, "KONTEXT_HOME": str(home), "PYTHONUNBUFFERED": "1"}


def killed_when(home: Path, words: str, after: float) -> None:
    """Start the pipeline, kill -9 it `after` seconds from the line that holds `words`."""
    line, env = command(home)
    process = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    seen = []
    for raw in process.stdout:
        seen.append(raw.decode())
        if words in seen[-1]:
            time.sleep(after)
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL, "".join(seen[-20:])


def dataset_of(home: Path) -> dict[str, dict[str, str]]:
    """Stage -> file name -> sha256, for the stages that make the dataset."""
    engine = Engine(small(), f"file://{home}/store", str(home / "catalog.sqlite"), home)
    found = {}
    for stage in DATASET[:-1]:
        manifest = engine.artifacts.manifest(stage, engine.digests()[stage])
        assert manifest is not None
        found[stage] = {file.name: file.sha256 for file in manifest.files}
    index = engine.artifact("index").json("index.json")
    found["index"] = {"dataset_digest": index["dataset_digest"], "version": str(index["version"])}
    return found


def test_killed_in_mine_shard_and_finetune_it_ends_as_if_undisturbed(tmp_path: Path) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    line, env = command(calm)
    subprocess.run(line, env=env, check=True, capture_output=True)
    rough.mkdir()
    shutil.copy(calm / "safety.key", rough / "safety.key")  # HMACs are per home

    killed_when(rough, "mine/", 0.05)
    killed_when(rough, "shard/", 0.05)
    killed_when(rough, "flow step 10", 0.0)
    line, env = command(rough)
    last = subprocess.run(line, env=env, check=True, capture_output=True, text=True)
    assert "resumed at step" in last.stdout + last.stderr
    assert dataset_of(rough) == dataset_of(calm)
