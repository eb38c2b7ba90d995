"""The real index stage behind the real engine, over small data stages."""

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kontext.engine import fingerprint
from kontext.engine.run import Engine
from kontext.engine.stage import Reporter, Stage
from kontext.errors import GateError
from kontext.safety.ledger_check import check_ledger
from kontext.stages import STAGES
from schemas.recipes import load_recipe

ROOT = Path(__file__).parents[2]
REPORT = Reporter(logging.getLogger("test"))
DATA = ("ingest", "mine", "caption", "screen", "shard")

SOURCE = """
import pyarrow as pa
from schemas.tables import DECISIONS
from tests.store.lake_rows import dataset

FILES = {
    "ingest": {"images/000.parquet": "images", "rejects.parquet": "rejects"},
    "mine": {"pairs.parquet": "pairs"},
    "caption": {"captions.parquet": "captions"},
    "screen": {"image_scores.parquet": "image_scores", "pair_scores.parquet": "pair_scores"},
    "shard": {n + ".parquet": n for n in ("splits", "shards", "shard_members")},
}

def run(ctx):
    given = {n: r.manifest.config for n, r in ctx.inputs.items()}
    mine = given.get("mine") or ctx.config.model_dump()
    rows = mine["seed"] if ctx.output.stage != "ingest" else 0
    tables = dataset(6 + rows, {})
    stage = ctx.output.stage
    words = pa.array(["make it so"] * len(tables["captions"]))
    place = tables["captions"].schema.get_field_index("instruction")
    tables["captions"] = tables["captions"].set_column(place, "instruction", words)
    for file, name in FILES[stage].items():
        ctx.output.add_table(file, tables[name])
    if stage == "shard":
        split = {7: "test", 8: "nowhere"}.get(rows, "train")
        known = pa.table({"pixel_id": ["x"], "split": [split]})
        ctx.output.add_table("picture_splits.parquet", known)
    if stage in ("ingest", "screen"):
        row = {f.name: "x" if pa.types.is_string(f.type) else 0.5 for f in DECISIONS}
        ctx.output.add_table("decisions.parquet", pa.Table.from_pylist([row], schema=DECISIONS))
    if stage == "screen":
        ctx.output.add_json("policy.json", {"version": "1", "thresholds": {"l1_min": 0.03}})
        refused = dataset(6, {})["images"]["pixel_id"][:1 if ctx.config.seed == 5 else 0]
        ctx.output.add_table("refused.parquet", pa.table({"pixel_id": refused}))
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return toy_code(tmp_path / "code", monkeypatch)


def toy_code(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """The stages' module in a folder that Python finds."""
    folder.mkdir(exist_ok=True)
    (folder / "toy_data.py").write_text(SOURCE)
    patch.syspath_prepend(str(folder))
    patch.delitem(sys.modules, "toy_data", raising=False)
    fingerprint.forget()
    return folder


def engine(code: Path, url: str, *overrides: str, home: str = "home") -> Engine:
    stages = {
        name: Stage(name=name, section=name, inputs=STAGES[name].inputs, module="toy_data")
        for name in DATA
    }
    stages["index"] = STAGES["index"]
    folder = code.parent / home
    recipe = load_recipe("ci", overrides)
    return Engine(recipe, url, folder / "catalog.sqlite", folder, stages=stages)


def run_all(found: Engine) -> dict[str, object]:
    for name in (*DATA, "index"):
        found.run_stage(name, REPORT)
    answer = found.artifact("index").json("index.json")
    assert isinstance(answer, dict)
    return answer


def test_versions_are_committed_once_each_and_answer(code: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    first = engine(code, url)
    one = run_all(first)
    assert (one["dataset"], one["version"]) == ("ci", 1)
    assert one["counts"]["pairs"] == 6 and one["counts"]["safety_decisions"] == 2
    assert run_all(engine(code, url)) == one
    again = first.run_stage("index", REPORT, force=True)  # same inputs: no second version
    assert again.manifest.metrics["dataset_digest"] == one["dataset_digest"]
    two = run_all(engine(code, url, "mine.seed=3"))
    assert two["version"] == 2 and two["dataset_digest"] != one["dataset_digest"]
    count = "select count(*) n from pairs"
    assert first.catalog.query(count)["n"].to_pylist() == [9]
    assert first.catalog.query(count, at="ci@v1")["n"].to_pylist() == [6]
    rejected = first.catalog.query("select pair_id from rejected_pairs order by 1", at="ci@v1")
    assert rejected["pair_id"].to_pylist() == ["p00", "p01"]
    assert first.artifacts.resolve("dataset@ci")[1] != first.digests()["index"]  # moved to v2
    assert len(first.catalog.datasets()) == 2


def test_nothing_of_a_refused_picture_can_be_queried(code: Path, tmp_path: Path) -> None:
    found = engine(code, f"file://{tmp_path}/store", "screen.seed=5")
    run_all(found)
    (refused,) = found.artifact("screen").table("refused.parquet")["pixel_id"].to_pylist()

    def count(table: str, where: str = "true") -> int:
        return found.catalog.query(f"select count(*) n from {table} where {where}")["n"][0].as_py()

    before = found.artifact("ingest").table("images").num_rows
    assert count("images") == before - 1 and not count("images", f"pixel_id = '{refused}'")
    theirs = f"target_id = '{refused}' or list_contains(context_ids, '{refused}')"
    pairs = count("pairs", theirs)
    assert pairs and count("pairs") == found.artifact("mine").table("pairs.parquet").num_rows
    assert count("pairs", f"({theirs}) and params = '{{}}' and group_key = ''") == pairs
    own = f"pair_id in (select pair_id from pairs where {theirs})"
    assert count("captions", own) == count("captions", f"{own} and instruction = ''") > 0
    assert count("captions", f"not ({own}) and instruction <> ''")


def test_a_version_that_puts_pictures_into_other_splits_is_refused(
    code: Path, tmp_path: Path
) -> None:
    """As two runs at once make it, when neither could go on from the other's shards."""
    url = f"file://{tmp_path}/store"
    run_all(engine(code, url))
    with pytest.raises(GateError, match=r"has 1 pictures in other splits: `kontext run --only"):
        run_all(engine(code, url, "mine.seed=7"))
    assert len(engine(code, url).catalog.datasets()) == 1
    assert run_all(engine(code, url, "mine.seed=8"))["version"] == 2


def test_a_version_that_is_used_again_is_the_newest_again(code: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    first, other = engine(code, url), engine(code, url, "mine.seed=3")
    for found in (first, other):
        run_all(found)
    count = "select count(*) n from pairs"
    assert first.catalog.query(count)["n"].to_pylist() == [9]
    first.reuse("index")
    assert first.catalog.query(count)["n"].to_pylist() == [6]
    assert first.artifacts.resolve("dataset@ci")[1] == first.digests()["index"]
    assert [v.version for v in first.catalog.datasets()] == [1, 2, 3]
    first.reuse("index")
    assert len(first.catalog.datasets()) == 3


def test_only_recipes_that_are_no_test_move_the_default(code: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    real, test = engine(code, url, "as_default=true"), engine(code, url, "mine.seed=3")
    run_all(real)
    run_all(test)
    latest = real.artifacts.tagged("latest/dataset")
    assert latest == ("index", real.digests()["index"])
    assert real.artifacts.tagged("dataset@ci") == ("index", test.digests()["index"])


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from kontext.store.artifacts.artifact_store import ArtifactWriter
from tests.store.test_index_stage import engine, run_all
commit = ArtifactWriter.commit
def killing(self, manifest):
    if self.stage == "index":
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(self, manifest)
if __name__ == "__main__":
    ArtifactWriter.commit = killing
    run_all(engine(Path(sys.argv[1]), sys.argv[3]))
"""


def test_killed_after_the_commit_makes_no_second_version(code: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    command = [sys.executable, str(script), str(code), str(ROOT), url]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    found = engine(code, url)
    (committed,) = found.catalog.datasets()
    resumed = run_all(found)
    assert found.catalog.datasets() == [committed]
    assert resumed["snapshot_id"] == committed.snapshot_id
    undisturbed = run_all(engine(code, f"file://{tmp_path}/other", home="other-home"))
    assert undisturbed["dataset_digest"] == committed.dataset_digest


@pytest.mark.s3
def test_everything_works_in_s3(code: Path, s3_url: str) -> None:
    found = engine(code, s3_url)
    one = run_all(found)
    assert one["version"] == 1
    assert found.catalog.query("select count(*) n from train_pairs")["n"].to_pylist() == [3]
    assert found.artifacts.verify().problems == ()
    assert check_ledger(found.ledger, found.artifacts).problems == ()
    assert all(s.state == "done" for s in engine(code, s3_url).status())
