"""The examples of CONTRIBUTING.md: each is the only file that is written, is found and works."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What the page leaves out: imports, and functions that stand for the reader's own.
HEADS = {
    "kontext/data/sources/flags.py": """
from typing import Literal
from pydantic import Field
from kontext.data.sources.base import SourceItem
from schemas.sections.sources import SourceConfig
def draw(country): return b"png"
""",
    "kontext/data/mine/mirrored.py": "from kontext.data.mine.candidate import Candidate",
    "kontext/data/operations/channels.py": """
from dataclasses import dataclass
import numpy as np
from kontext.data.operations.base import Canvas, Draw, Edit, Operation, sentences, whole
""",
    "kontext/data/caption/shouting.py": """
from dataclasses import replace
from kontext.data.caption.templates import TemplateCaptioner
""",
    "kontext/safety/classifiers/weapons.py": """
from schemas.risks import Risk
def run_model(images): return np.zeros(len(images), np.float32)
import numpy as np
""",
    "kontext/evaluate/metrics/sharpness.py": """
import numpy as np
from kontext.evaluate.metrics.base import Measured, Metric, mean
""",
    "kontext/train/methods/robust.py": """
from torch.nn.functional import huber_loss
from kontext.data.encoded.latents import load_pairs
from kontext.models.flux.sequence import pack
from kontext.train.flow.edit_step import EditMethod
from kontext.train.flow.velocity import velocity
""",
    "kontext/stages/measure.py": """
from pydantic import Field
from kontext.engine.stage import Stage
from schemas.sections.base import Section
""",
    "flows/cli/hello.py": """
from typing import Annotated
import typer
from flows.cli.shared.options import Json, Panel
from flows.cli.shared.show import print_json
""",
    "schemas/recipes/tiny.py": """
from schemas.recipe import Recipe
from schemas.sections.data import IngestConfig, ShardConfig
from schemas.sections.evaluation import PublishConfig
""",
}
SECTIONS = "schemas/sections/training.py"  # where a method's settings are a field
FOUND = """
import numpy as np
from types import SimpleNamespace
from flows.cli import app
from kontext.data.caption import captioner_for
from kontext.data.caption.base import CaptionRequest, ImageFacts
from kontext.data.mine import miner
from kontext.data.mine.candidate import MinedImage
from typer.testing import CliRunner
from kontext.data.sources import plan
from kontext.evaluate.metrics import modules_named
from kontext.evaluate.score import METRICS
from kontext.safety.classifiers import load_classifier
from kontext.store.catalog.views import THRESHOLDS, views
from schemas.recipes import load_recipe
from schemas.risks import risks
from schemas.tables import PAIR_SCORES, pair_scores

changes = ('ingest.sources=[{"kind": "flags"}]', 'mine.miners=["mirrored"]')
recipe = load_recipe("tiny", (*changes, "caption.captioner=shouting"))
assert [item.ref for item in plan(recipe.ingest.sources[0])] == ["jp", "fr"]

pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
shown = {"a": pixels, "b": pixels[:, ::-1].copy()}
images = [MinedImage(n, "s", "g", "c", {}, "MIT", shown.__getitem__) for n in shown]
found = list(miner("mirrored")(images, recipe.mine))
assert [(pair.context_ids, pair.target_id) for pair in found] == [(("a",), "b"), (("b",), "a")]

from kontext.data.operations import modules, operations
from kontext.data.operations.base import Canvas, Draw
swap = operations()["swap-channels"]
parameters = swap.draw(Canvas(16 * pixels), Draw(0))
edit = swap.apply(Canvas(16 * pixels), parameters)
assert edit.mask.all() and parameters.order.upper() in swap.says(parameters)[0]
assert "kontext.data.operations.channels" in modules()

caption = captioner_for(recipe.caption).caption(
    CaptionRequest("p", "t2i", "t2i", '{"subject": "a red house"}', ImageFacts("a red house")))
assert caption.status == "ok" and "RED HOUSE" in caption.instruction, caption

weapons = load_classifier("weapons")
assert weapons.scores([pixels]) == {"weapon": [0]} and "weapons" in risks()
assert {"weapons_max", "weapons_max_unmatchable"} < {*THRESHOLDS}
assert "weapons_max" in PAIR_SCORES.names and "weapons_limit" in views()[0].sql
unnamed = {r.column for r in risks().values() if r.classifier not in recipe.screen.classifiers}
assert "weapons_max" in unnamed
assert pair_scores(risks(recipe.screen.classifiers).values()).names == [
    name for name in PAIR_SCORES.names if name not in unnamed]

flat = SimpleNamespace(output=np.zeros((2, 4, 4, 3), np.uint8))
assert METRICS["sharpness"].measure(flat).per_item.tolist() == [0, 0]
assert "kontext.evaluate.metrics.sharpness" in modules_named(recipe.evaluate)

said = CliRunner().invoke(app, ["hello", "Ada"])
assert said.output.startswith("Ada, there are demo, ") and "tiny" in said.output, said
assert "hello" in CliRunner().invoke(app, ["--help"]).output
"""
RUN = """
import json
from pathlib import Path
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter
from kontext.stages import STAGES
from schemas.recipes import load_recipe
from schemas.tables import SPLITS
from tests.stages.encoded_run import FLOW, SHAPE, encoded_run
from tests.stages.stage_harness import Harness, rows_table
import logging

def splits(output):
    rows = [{"pair_id": str(n), "split": "val" if n else "train"} for n in range(5)]
    output.add_table("splits.parquet", rows_table(SPLITS, rows))

Harness(Path("made"), load_recipe("ci")).make("shard", splits)
stages = {name: STAGES[name] for name in ("shard", "measure")}
digests = set()
for changes, expected in (((), {"train": 1, "val": 4, "test": 0}),
                          (('measure.splits=["val"]',), {"val": 4})):
    engine = Engine(load_recipe("ci", changes), "file://" + str(Path("made/store").absolute()),
                    "", Path("home"), stages=stages, pins={"shard": "hand-made"})
    engine.run_stage("measure", Reporter(logging.getLogger()))
    assert engine.artifact("measure").json("counts.json") == expected
    digests.add(engine.digests()["measure"])
assert len(digests) == 2

trained = encoded_run(Path("trained"))
section = trained.recipe.finetune
settings = {**section.model_dump(), "robust": {"steps": 2, "batch": 4}}
update = {"finetune": type(section).model_validate(settings)}
trained.recipe = trained.recipe.model_copy(update=update)
rows = trained.run("finetune").table("robust.parquet").to_pylist()
assert [row["step"] for row in rows] == [0, 1] and all(row["loss"] > 0 for row in rows)
"""


def example(text: str, path: str) -> str:
    """The Python example that follows the first mention of a file."""
    block = re.search(r"```python\n(.*?)```", text.partition(f"`{path}`")[2], re.S)
    assert block is not None, path
    return block[1]


def test_each_example_is_one_file_that_is_found_and_works(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for folder in ("flows", "tasks", "kontext", "schemas"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    assert len(re.findall(r"^### An? ", text, re.M)) == len(HEADS)
    for path, head in HEADS.items():
        assert not (tmp_path / path).exists()
        future = "from __future__ import annotations\n"
        (tmp_path / path).write_text(f"{future}{head}\n{example(text, path)}")
    first, _, field = example(text, SECTIONS).partition("\n")
    sections = (tmp_path / SECTIONS).read_text()
    docstring = '    """The teacher: flow matching on text-to-image and on edits."""\n'
    assert first in sections and docstring in sections
    (tmp_path / SECTIONS).write_text(sections.replace(docstring, docstring + "\n" + field))
    done = subprocess.run(
        [sys.executable, "-c", FOUND + RUN],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
