"""The examples of CONTRIBUTING.md, each put into its one file, are found there and work."""

from __future__ import annotations

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
    "kontext/data/caption/shouting.py": """
from dataclasses import replace
from kontext.data.caption.templates import TemplateCaptioner
""",
    "kontext/safety/classifiers/weapons.py": "from schemas.risks import Risk",
    "kontext/evaluate/metrics/sharpness.py": """
import numpy as np
from kontext.evaluate.metrics.base import Measured, Metric, mean
""",
    "kontext/stages/measure.py": """
from collections import Counter
from kontext.engine.stage import Stage, StageContext
""",
    "schemas/recipes/tiny.py": """
from schemas.recipe import Recipe
from schemas.sections.data import IngestConfig, ShardConfig
from schemas.sections.evaluation import PublishConfig
""",
}
USE = """
import numpy as np
from types import SimpleNamespace
from kontext.data.caption import captioner_for
from kontext.data.caption.base import CaptionRequest, ImageFacts
from kontext.data.mine import miner
from kontext.data.mine.candidate import MinedImage
from kontext.data.sources import plan
from kontext.evaluate.metrics import METRICS
from kontext.safety.classifiers import load_classifier
from kontext.stages import STAGES
from schemas.recipes import load_recipe
from schemas.risks import risks

changes = ('ingest.sources=[{"kind": "flags"}]', 'mine.miners=["mirrored"]')
recipe = load_recipe("tiny", (*changes, "caption.captioner=shouting"))
assert [item.ref for item in plan(recipe.ingest.sources[0])] == ["jp", "fr"]

pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
images = [MinedImage(n, "s", "g", "c", {}, "MIT", rgb)
          for n, rgb in (("a", pixels), ("b", pixels[:, ::-1].copy()))]
found = list(miner("mirrored")(images, recipe.mine))
assert [(pair.context_ids, pair.target_id) for pair in found] == [(("a",), "b"), (("b",), "a")]

caption = captioner_for(recipe.caption).caption(
    CaptionRequest("p", "t2i", "t2i", '{"subject": "a red house"}', ImageFacts("a red house")))
assert caption.status == "ok" and "RED HOUSE" in caption.instruction, caption
assert load_classifier("weapons").labels == ("weapon",) and "weapons" in risks()
flat = SimpleNamespace(output=np.zeros((2, 4, 4, 3), np.uint8))
assert METRICS["sharpness"].measure(flat).per_item.tolist() == [0, 0]
assert STAGES["measure"].inputs == ("shard",)
"""


def test_each_example_is_one_file_that_is_found(tmp_path: Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for folder in ("kontext", "schemas"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for path, head in HEADS.items():
        section = text.partition(f"`{path}`")[2]
        block = re.search(r"```python\n(.*?)```", section, re.S)
        assert block is not None, path
        (tmp_path / path).write_text(f"from __future__ import annotations\n{head}\n{block[1]}")
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
