"""`kontext run --source` with the demo's recipe, on wide photographs: to an edit of their shape."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from flows import cli
from kontext.data.encoded.banks import open_bank
from kontext.engine.run import Engine
from schemas.recipes import load_recipe
from tasks.workspace import open_engine, places
from tests.data.pictures import scene

EDITS, SIZE = 60, (500, 250)
SMALL = (
    "ingest.processes=1",
    'screen.classifiers=["open-nsfw"]',
    "screen.policy=no-nudenet",
    "screen.processes=1",
    "screen.clip_steps=2",
    "autoencoder.steps=4",
    "autoencoder.batch=4",
    "autoencoder.perceptual_start=2",
    "autoencoder.latent_noise_start=2",
    "autoencoder.disc_start=3",
    "finetune.t2i_steps=0",
    "finetune.joint_steps=3",
    "finetune.batch=4",
    "finetune.warmup=1",
    "finetune.validate_every=0",
    "finetune.pictures.steps=1",
    "finetune.pictures.batch=4",
    "distill.teacher_edits=8",
    "distill.teacher_steps=2",
    "distill.steps=2",
    "distill.warmup_steps=1",
    "distill.batch=4",
    "distill.validate_every=0",
    "evaluate.items_per_category=4",
    "evaluate.teacher_steps=2",
    "evaluate.diagnosed=1",
    "evaluate.step_items=1",
    "evaluate.drift_scripts=1",
)


def photographs(root: Path) -> Path:
    """Edits of a small part anywhere in a picture: both pictures, and a text each."""
    draw = np.random.default_rng(0)
    for part in ("control", "target"):
        (root / part).mkdir(parents=True)
    for number in range(EDITS):
        small = Image.fromarray(scene(number))
        before = np.asarray(small.resize(SIZE, Image.Resampling.BICUBIC))
        after = before.copy()
        height, width = draw.integers(30, 100), draw.integers(30, 150)
        top, left = draw.integers(0, SIZE[1] - height), draw.integers(0, SIZE[0] - width)
        box = slice(top, top + height), slice(left, left + width)
        after[box] = 255 - after[box]
        for part, rgb in (("control", before), ("target", after)):
            Image.fromarray(rgb).save(root / part / f"{number}.png")
        (root / f"target/{number}.txt").write_text(f"invert the box no. {number}")
    return root


@pytest.fixture(scope="module")
def made(timed_briefly: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine of a run of all stages by the command."""
    folder = tmp_path_factory.mktemp("own-shapes")
    photos = photographs(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KONTEXT_HOME", str(folder / "home"))
        for name in ("KONTEXT_STORE", "KONTEXT_CATALOG", "PREFECT_API_URL"):
            patch.delenv(name, raising=False)
        sets = [word for one in SMALL for word in ("--set", one)]
        run = ["run", "--direct", "--json", "--source", str(photos), *sets]
        result = CliRunner().invoke(cli.app, run)
        assert result.exit_code == 0, (result.output, result.exception)
        sources = json.dumps([{"kind": "pairs", "path": str(photos), "layout": "paired-folders"}])
        own = (f"ingest.sources={sources}", "ingest.sizes=kontext", *SMALL)
        yield open_engine(load_recipe("demo", own), places())


def test_none_of_60_wide_edits_is_lost(made: Engine) -> None:
    assert made.artifact("ingest").table("images").num_rows == 2 * EDITS
    verdicts = made.artifact("screen").table("accepted.parquet").to_pylist()
    edits = {
        row["pair_id"]
        for row in made.artifact("mine").table("pairs.parquet").to_pylist()
        if row["context_ids"]
    }
    assert len(edits) == EDITS
    lost = [row["reject_reasons"] for row in verdicts if row["pair_id"] in edits]
    assert len(lost) == EDITS and not any("edit_cropped" in reasons for reasons in lost)


def test_every_stage_takes_their_shape(made: Engine) -> None:
    assert {status.state for status in made.status()} == {"done"}
    latents = open_bank(made.artifact("encode"), "latents").tensors["latents"]
    height, width = latents[torch.tensor([0])].shape[2:]
    assert (width, height) == (96 // 8, 48 // 8)
    assert made.artifact("evaluate").names("report/index.html")


def test_an_edit_has_the_pictures_shape(made: Engine, tmp_path: Path) -> None:
    source = made.recipe.ingest.sources[0]
    picture = Path(source.path) / "control/0.png"  # type: ignore[attr-defined]
    out = tmp_path / "out.png"
    words = ["edit", str(picture), "invert the box no. 0", "-o", str(out)]
    result = CliRunner().invoke(cli.app, [*words, "--steps", "1", "--policy", "no-nudenet"])
    assert result.exit_code == 0, (result.output, result.exception)
    assert Image.open(out).size == SIZE
