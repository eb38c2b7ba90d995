"""A folder in which every other entry is out to harm: what is good is kept right, and no more."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kontext.data.decode import Reason
from kontext.data.images import ImageBank
from kontext.data.layouts.base import walk
from kontext.store.artifacts.artifact_store import Artifact
from tests.data.decode.hostile_folder import image_bytes, make
from tests.data.decode.hostile_good import Good
from tests.data.decode.hostile_run import harness

# not to be had from a folder in seconds: see tests/data/decode/test_guard.py and test_process.py
ELSEWHERE = {Reason.SVG_BROKEN, Reason.TIMEOUT, Reason.HEIC_NEEDS_LIBRARY}


@dataclass(frozen=True)
class Ingested:
    """What was put into the folder, and what came of it."""

    good: dict[str, Good]
    reasons: dict[str, str]
    artifact: Artifact
    peaks: dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "warm").mkdir()
    (folder / "warm/a.png").write_bytes(image_bytes())
    good, reasons = make(folder / "pictures")
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.decode.hostile_run", str(folder)],
        capture_output=True,
        text=True,
        timeout=600,  # a hang
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    store = harness(folder, folder / "pictures").store
    artifact = store.open("ingest", "digest-of-ingest")
    return Ingested(good, reasons, artifact, json.loads(done.stdout.splitlines()[-1]))


def test_it_is_large_and_half_of_it_is_good(made: Ingested) -> None:
    assert len(made.good) >= 300 and len(made.reasons) >= 300
    assert set(map(str, set(Reason) - ELSEWHERE)) <= set(made.reasons.values())


def test_every_good_picture_is_kept_upright_in_its_colours(made: Ingested) -> None:
    bank = ImageBank(made.artifact)
    images = made.artifact.table("images")
    found = dict(zip(images["source_ref"].to_pylist(), images["pixel_id"].to_pylist(), strict=True))
    assert found.keys() == made.good.keys()
    wrong = {}
    for name, file in made.good.items():
        kept = bank.stored(found[name])
        if kept.shape != file.rgb.shape:
            wrong[name] = f"{kept.shape} in place of {file.rgb.shape}"
        elif (off := np.abs(kept.astype(int) - file.rgb).max()) > file.within:
            wrong[name] = f"off by {off}"
    assert not wrong


def test_everything_else_is_rejected_with_its_reason(made: Ingested) -> None:
    rejects = made.artifact.table("rejects.parquet").to_pylist()
    found = {row["source_ref"]: row["reason"] for row in rejects if row["source"] != "canary"}
    differences = {
        name: (made.reasons.get(name), found.get(name))
        for name in made.reasons.keys() | found.keys()
        if made.reasons.get(name) != found.get(name)
    }
    assert not differences, "(expected, found)"
    assert all(row["detail"] and "\n" not in row["detail"] for row in rejects if row["detail"])


def test_planned_and_skipped_are_all_that_was_seen(made: Ingested) -> None:
    metrics = made.artifact.manifest.metrics
    counts = Counter(made.reasons.values())
    assert metrics["images_kept"] == len(made.good)
    assert metrics["images_planned"] == metrics["images_kept"] + metrics["images_rejected"]
    assert metrics["images_planned"] + metrics["entries_skipped"] == len(made.good) + counts.total()
    assert metrics["canaries_stopped"] == 3


def test_memory_does_not_grow_with_what_files_claim(made: Ingested) -> None:
    for who in ("self", "child"):
        grown = made.peaks["after"][who] - made.peaks["before"][who]
        assert grown <= 300 << 20, f"{who}: {grown >> 20} MiB"


def test_folders_deeper_than_recursion_goes_are_walked(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"d" * 1_010)
    subprocess.run(["mkdir", "-p", str(deep)], check=True)  # pathlib recurses
    (deep / "a.png").write_bytes(b"x")
    try:
        assert list(walk(tmp_path)) == [(deep / "a.png", "")]
    finally:  # shutil recurses
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)
